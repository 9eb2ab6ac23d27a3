"""Threads that write pieces of memory to a file, each piece at its place; and buffers to write from."""

import contextlib
import errno
import os
import queue
from collections.abc import Callable

from marlin_ckpt.storage.local import system_calls
from marlin_ckpt.storage.pages import private_memory
from marlin_ckpt.storage.piece_threads import PieceThreads

# With several writes under way the disk does not wait for the next one. Measured on ext4, two cores: 447 ms
# with three threads for 1.49 GB, 470 ms with two.
_THREADS = 3
# Four huge pages. The disk's own time varies by a half, so these were measured in turns with it: saves took
# 1.09 of a raw write's time, 1.15 with 4 MiB, and a seventh less processor time; two ranks 1.11 and 1.16; a
# cold `verify` of 1.44 GB 627 ms and 695 ms. Before, in one run: saves 447 ms with 4 MiB, 511 ms with 2 MiB,
# 775 ms with 1 MiB in small pages.
PIECE_BYTES = 8 << 20
MOST_KEPT = 4

# Those of earlier files: new ones cost page faults, and memory that is in no cache. A list, since its
# `append` and `pop` need no lock, which a process that is forked meanwhile could find locked.
_kept: list[memoryview] = []


def take_buffer(size: int) -> memoryview:
    """A buffer of so many bytes that is no other file's, beginning at a page's border."""
    with contextlib.suppress(IndexError):
        if len(kept := _kept.pop()) == size:
            return kept
    # Of what a forked process had, too, the next write would copy each page into a small one, for good; the
    # workers of a data loader are forked in each epoch.
    return private_memory(size, is_wiped_by_fork=True)


def give_back_buffers(buffers: list[memoryview]) -> None:
    """Takes buffers that nothing reads or writes any more."""
    _kept.extend(buffers[: max(0, MOST_KEPT - len(_kept))])


class Buffers:
    """The buffers of one file, each filled, written and filled again."""

    def __init__(self, count: int, size: int) -> None:
        """Takes them, all of one size, which is at most that of a piece."""
        # All are as long as a piece, however little of each is filled: so any file takes those of any other.
        self._own = [take_buffer(PIECE_BYTES) for _ in range(count)]
        self._filled = {one.obj: one[:size] for one in self._own}  # by the memory, of which each has its own
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for one in self._filled.values():
            self._free.put(one)

    def next(self) -> memoryview:
        """A buffer that has nothing in it any more; waits until there is one."""
        return self._free.get()

    def is_written(self, piece: memoryview) -> None:
        """Takes back the buffer of which a piece, or all, was written."""
        self._free.put(self._filled[piece.obj])

    def give_back(self) -> None:
        """Gives them to the next file; nothing reads or writes them any more."""
        own, self._own, self._filled = self._own, [], {}
        give_back_buffers(own)


class WritingThreads(PieceThreads):
    """Writes pieces to a file; with O_DIRECT their memory, length and offset are multiples of a block.

    What a thread writes can only reach the file that it was given for: the threads use a duplicate of the
    descriptor, which is closed when none of them uses it any more, so that its number means no other file
    before.
    """

    def __init__(self, fd: int, on_written: Callable[[memoryview], object], threads: int = _THREADS) -> None:
        """Takes what the first `write` starts the threads with.

        Args:
            fd: the file, open for writing.
            on_written: told, from a thread, of each piece whose memory is needed no more.
            threads: how many of them.
        """
        super().__init__(on_written, threads)
        self._owners_fd, self._fd = fd, -1

    def finish(self) -> None:
        """Waits until every piece is written.

        Raises:
            OSError: one of them could not be.
        """
        super().finish()
        self._close()

    def stop(self) -> None:
        """Ends the threads; see `PieceThreads.stop`."""
        try:
            super().stop()
        finally:
            with contextlib.suppress(OSError):  # whatever stopped the writing counts more
                self._close()

    def _start(self) -> None:
        self._fd = os.dup(self._owners_fd)
        super()._start()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def write_at(self, piece: memoryview, offset: int) -> None:
        """Writes a piece; see `PieceThreads.write_at`."""
        rest, may_be_refused = piece, True
        while rest and not self.is_stopped:
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


class CachedThread(WritingThreads):
    """Writes pieces through the page cache, and has the disk begin with each."""

    def __init__(self, fd: int, on_written: Callable[[memoryview], object]) -> None:
        """Takes what `WritingThreads` does; of several threads all but one would wait for the file's lock."""
        super().__init__(fd, on_written, 1)

    def write_at(self, piece: memoryview, offset: int) -> None:
        """Writes a piece; see `PieceThreads.write_at`."""
        super().write_at(piece, offset)
        system_calls.start_writeback(self._fd, offset, len(piece))
