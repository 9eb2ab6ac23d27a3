"""Threads that write pieces of memory to a file, each piece at its place."""

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Callable

from marlin_ckpt.storage.local import system_calls
from marlin_ckpt.storage.threads import with_patience

# With two writes under way the disk does not wait for the next one, and is faster than with one; more were no
# faster on ext4.
_THREADS = 2


class WritingThreads:
    """Writes several pieces at a time, in whatever order they end.

    Nothing is written once `stop` has returned, and what a thread writes can only reach the file that it was
    given for: the threads use a duplicate of the descriptor, which is closed when none of them uses it any
    more, so that its number means no other file before.
    """

    def __init__(self, fd: int, on_written: Callable[[memoryview], object]) -> None:
        """Takes what the first `write` starts the threads with.

        Args:
            fd: the file, open for writing.
            on_written: told, from a thread, of each piece whose memory is needed no more.
        """
        self._owners_fd, self._fd = fd, -1
        self._on_written = on_written
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()  # held to look at the rest
        self._pieces: deque[tuple[memoryview, int]] = deque()
        self._under_way = 0
        self._is_stopped = False
        self._errors: list[BaseException] = []

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a piece written; with O_DIRECT its memory, length and offset are multiples of a block.

        Raises:
            OSError: an earlier piece could not be written; EAGAIN, a thread cannot be started.
        """
        if not self._threads:
            self._start()
        with self._changed:
            self._pieces.append((piece, offset))
            self._changed.notify_all()
        self.check()

    def check(self) -> None:
        """Raises the first error there was."""
        if self._errors:
            raise self._errors[0]

    def finish(self) -> None:
        """Waits until every piece is written.

        Raises:
            OSError: one of them could not be.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._errors or not (self._pieces or self._under_way))
        self.check()
        self._end()
        self._close()

    def stop(self) -> None:
        """Ends the threads; pieces that none of them has begun with are not written.

        An interrupt (Ctrl-C, any signal's handler that raises) is raised once no thread writes any more.
        """
        try:
            with_patience(self._end)
        finally:
            with contextlib.suppress(OSError):  # whatever stopped the writing counts more
                self._close()
            self._errors.clear()  # their tracebacks hold whoever called, and what he wanted written

    def _start(self) -> None:
        self._fd = os.dup(self._owners_fd)
        try:
            for number in range(_THREADS):
                thread = threading.Thread(target=self._work, name=f"marlin-ckpt writer {number}")
                thread.start()
                self._threads.append(thread)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "cannot start a thread that writes") from error

    def _end(self) -> None:
        # `join` alone would not do: in Python 3.11 a thread whose join was interrupted counts as ended from
        # then on, though it runs.
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._under_way)
        for thread in self._threads:
            thread.join()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            piece, offset = taken
            try:
                self._write_at(piece, offset)
            except BaseException as error:  # noqa: BLE001 - raised where the caller can see it
                self._errors.append(error)
            finally:
                self._on_written(piece)
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify_all()

    def _take(self) -> tuple[memoryview, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._is_stopped or self._errors)
            if self._is_stopped or self._errors:
                return None
            self._under_way += 1
            return self._pieces.popleft()

    def _write_at(self, rest: memoryview, offset: int) -> None:
        may_be_refused = True
        while rest and not self._is_stopped:
            try:
                written = os.pwrite(self._fd, rest, offset)
            except OSError as error:
                # Some file systems refuse O_DIRECT only now, or when a short write left a crooked offset.
                if error.errno != errno.EINVAL or not may_be_refused:
                    raise
                system_calls.set_direct(self._fd, on=False)
                may_be_refused = False
                continue
            rest = rest[written:]
            offset += written
