"""Threads that write pieces of memory to a file, and the switch past the page cache."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import threading
from collections.abc import Callable

BLOCK_BYTES = 4096  # the greatest logical block of a disk in use
# How a file system says that it has no O_DIRECT, or sets no space aside.
REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)


class Writers:
    """Writes pieces each at its place, several at a time, in whatever order they end."""

    def __init__(self, fd: int, threads: int, on_written: Callable[[memoryview, int], None]) -> None:
        """Starts the threads.

        Args:
            fd: the file, open for writing.
            threads: how many; two writes under way keep a disk busy.
            on_written: told, from a thread, of each piece that is needed no more, and its offset.

        Raises:
            OSError: EAGAIN, a thread cannot be started.
        """
        self._fd = fd
        self._on_written = on_written
        self._errors: list[BaseException] = []
        self._pieces: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        try:
            for number in range(threads):
                thread = threading.Thread(target=self._work, name=f"marlin-ckpt writer {number}")
                thread.start()
                self._threads.append(thread)
        except RuntimeError as error:
            self.stop()
            raise OSError(errno.EAGAIN, "cannot start a thread that writes") from error

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a piece written; with O_DIRECT its memory, length and offset are multiples of a block.

        Raises:
            OSError: an earlier piece could not be written.
        """
        self._pieces.put((piece, offset))
        self.check()

    def check(self) -> None:
        """Raises the first error there was."""
        if self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        """Ends the threads, once all that they were given is done."""
        for _ in self._threads:
            self._pieces.put(None)
        while self._threads:
            self._threads.pop().join()

    def _work(self) -> None:
        while (item := self._pieces.get()) is not None:
            piece, offset = item
            try:
                try:
                    if not self._errors:
                        self._write_at(piece, offset)
                finally:
                    self._on_written(piece, offset)
            except BaseException as error:  # noqa: BLE001 - raised where the caller can see it
                self._errors.append(error)

    def _write_at(self, rest: memoryview, offset: int) -> None:
        may_be_refused = True
        while rest:
            try:
                written = os.pwrite(self._fd, rest, offset)
            except OSError as error:
                # Some file systems refuse O_DIRECT only now, or when a short write left a crooked offset.
                if error.errno != errno.EINVAL or not may_be_refused:
                    raise
                set_direct(self._fd, on=False)
                may_be_refused = False
                continue
            rest = rest[written:]
            offset += written


def rounded(size: int) -> int:
    """A size rounded up to whole blocks."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def set_direct(fd: int, *, on: bool) -> None:
    """Switches O_DIRECT on or off.

    Raises:
        OSError: EINVAL or EOPNOTSUPP, there is none.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
    if wanted != flags:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)


def make_direct(fd: int, expected_bytes: int) -> None:
    """Switches the page cache off for an empty file and sets its space aside.

    Raises:
        OSError: ENOSPC when the disk has no room; EINVAL or EOPNOTSUPP where the file system has no O_DIRECT,
            the file being still empty.
    """
    set_direct(fd, on=True)
    try:
        # Without it each write also allocates, which takes half as long again (measured on ext4).
        os.posix_fallocate(fd, 0, rounded(expected_bytes))
    except OSError as error:
        if error.errno in REFUSALS:  # the file will be filled in another way; else it is thrown away
            set_direct(fd, on=False)
            os.ftruncate(fd, 0)
        raise


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Has the disk begin with what lies in the page cache.

    Linux starts to write the pages of a range that is not needed, where sync_file_range(2), which is there
    for that, is not to be had from Python; dirty ones stay (mm/fadvise.c). A save of 10 MB took 0.7 of the
    time, most of which an fsync with everything left to do had taken.
    """
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)
