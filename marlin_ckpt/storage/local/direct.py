"""Pieces that are written past the page cache, with O_DIRECT: the disk's own speed, and hardly any memory.

The caller fills one piece while threads write others.
"""

import os
import queue
from collections.abc import Iterator

from marlin_ckpt.storage.local import system_calls
from marlin_ckpt.storage.local.threads import PIECE_BYTES, WritingThreads, give_back_buffers, take_buffer

BLOCK_BYTES = 4096  # the greatest logical block of a disk in use
_PIECE_BYTES = PIECE_BYTES
_BUFFERS = 4


class DirectPieces:
    """Aligned pieces: four buffers in turn, or those of given memory one after the other."""

    def __init__(self, fd: int, expected_bytes: int, image: memoryview | None) -> None:
        """Sets the space aside and switches the page cache off.

        Args:
            fd: an empty file, open for writing.
            expected_bytes: how long it will be, roughly.
            image: writable memory for the whole file and one block more, beginning at a page's border, in
                which any part of the file may lie at its place already; None for buffers.

        Raises:
            OSError: ENOSPC when the disk has no room; one of `system_calls.REFUSALS` where the file system
                has no O_DIRECT or sets no space aside, the file being still empty.
        """
        self._fd = fd
        system_calls.set_direct(fd, on=True)
        try:
            # Without it each write also allocates, which takes half as long again (measured on ext4).
            system_calls.allocate(fd, _in_blocks(expected_bytes))
        except OSError as error:
            if error.errno in system_calls.REFUSALS:  # filled in another way; after other errors thrown away
                system_calls.set_direct(fd, on=False)
                os.ftruncate(fd, 0)
            raise
        free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._memory: Iterator[memoryview]
        self._buffers: list[memoryview] = []
        if image is None:
            self._buffers = [take_buffer(_PIECE_BYTES) for _ in range(_BUFFERS)]
            for one in self._buffers:
                free.put(one)
            self._memory = iter(free.get, None)
        else:
            starts = range(0, len(image), _PIECE_BYTES)
            self._memory = (image[start : start + _PIECE_BYTES] for start in starts)
        self._threads = WritingThreads(fd, free.put)

    def next(self) -> memoryview:
        """Memory for the next piece; waits until there is some."""
        return next(self._memory)

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a full piece written at its place in the file."""
        self._threads.write(piece, offset)

    def finish(self, piece: memoryview, filled: int, offset: int) -> None:
        """Writes the rest, padded to a block, and cuts the file to its length."""
        if filled:
            padded = _in_blocks(filled)
            piece[filled:padded] = bytes(padded - filled)
            self._threads.write(piece[:padded], offset)
        self._threads.finish()
        system_calls.set_direct(self._fd, on=False)
        os.ftruncate(self._fd, offset + filled)

    def stop(self) -> None:
        """Ends the threads; see `WritingThreads.stop`."""
        try:
            self._threads.stop()
        finally:
            own, self._buffers = self._buffers, []
            give_back_buffers(own)


def _in_blocks(size: int) -> int:
    """A size rounded up to whole blocks."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
