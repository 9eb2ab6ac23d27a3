"""Threads that write pieces of memory, each at its place, while the next one is filled."""

import errno
import threading
from collections import deque
from collections.abc import Callable

from marlin_ckpt.storage.threads import with_patience


class PieceThreads:
    """Writes several pieces at a time, in whatever order they end; nothing once `stop` has returned.

    A subclass says how one is written.
    """

    def __init__(self, on_written: Callable[[memoryview], object], threads: int) -> None:
        """Takes what the first `write` starts the threads with.

        Args:
            on_written: told, from a thread, of each piece whose memory is needed no more.
            threads: how many of them.
        """
        self._count = threads
        self._on_written = on_written
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()  # held to look at the rest
        # Two, since a wakened thread that finds nothing to do costs processor time with each piece.
        self._has_work, self._has_ended = (threading.Condition(self._lock) for _ in range(2))
        self._pieces: deque[tuple[memoryview, int]] = deque()
        self._under_way = 0
        self._is_stopped = False
        self._errors: list[BaseException] = []

    def write_at(self, piece: memoryview, offset: int) -> None:
        """Writes a piece of memory to its place; called on the threads."""
        raise NotImplementedError

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a piece written.

        Raises:
            Exception: of an earlier piece that could not be written; OSError (EAGAIN), a thread cannot be
                started.
        """
        if not self._threads:
            self._start()
        with self._lock:
            self._pieces.append((piece, offset))
            self._has_work.notify()
        self.check()

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is to be written."""
        return self._is_stopped

    def check(self) -> None:
        """Raises the first error there was."""
        if self._errors:
            raise self._errors[0]

    def finish(self) -> None:
        """Waits until every piece is written.

        Raises:
            Exception: of one that could not be.
        """
        with self._lock:
            self._has_ended.wait_for(lambda: self._errors or not (self._pieces or self._under_way))
        self.check()
        self._end()

    def stop(self) -> None:
        """Ends the threads; pieces that none of them has begun with are not written.

        An interrupt (Ctrl-C, any signal's handler that raises) is raised once no thread writes any more.
        """
        try:
            with_patience(self._end)
        finally:
            self._errors.clear()  # their tracebacks hold whoever called, and what he wanted written

    def _start(self) -> None:
        try:
            for number in range(self._count):
                thread = threading.Thread(target=self._work, name=f"marlin-ckpt writer {number}")
                thread.start()
                self._threads.append(thread)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "cannot start a thread that writes") from error

    def _end(self) -> None:
        # `join` alone would not do: in Python 3.11 a thread whose join was interrupted counts as ended from
        # then on, though it runs.
        with self._lock:
            self._is_stopped = True
            self._has_work.notify_all()
            self._has_ended.wait_for(lambda: not self._under_way)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            piece, offset = taken
            try:
                self.write_at(piece, offset)
            except BaseException as error:  # noqa: BLE001 - raised where the caller can see it
                self._errors.append(error)
            finally:
                self._on_written(piece)
                with self._lock:
                    self._under_way -= 1
                    self._has_ended.notify_all()
                    if self._errors:
                        self._has_work.notify_all()

    def _take(self) -> tuple[memoryview, int] | None:
        with self._lock:
            self._has_work.wait_for(lambda: self._pieces or self._is_stopped or self._errors)
            if self._is_stopped or self._errors:
                return None
            self._under_way += 1
            return self._pieces.popleft()
