"""Chooses the way of a file's pieces to the disk: past the page cache, or through it."""

import contextlib
import os
import queue
from collections.abc import Iterator

from marlin_ckpt.storage.local import system_calls
from marlin_ckpt.storage.local.direct import DirectPieces
from marlin_ckpt.storage.local.threads import CachedThread, give_back_buffers, take_buffer
from marlin_ckpt.storage.writer import Pieces, Writer

# Below this the page cache takes the bytes faster than a disk's round trips, and a thread beside the one that
# fills gains nothing; measured on ext4.
_LARGE_BYTES = 64 << 20
# Calls of 1 MiB write to the page cache several times faster than calls of 64 MiB, which make the kernel take
# 2 MiB folios.
_CACHED_PIECE_BYTES = 1 << 20
_BUFFERS = 3
_IN_MEMORY = {"tmpfs", "ramfs"}


class CachedPieces:
    """Pieces that are written through the page cache, used as `DirectPieces` are.

    The disk begins with each while more is prepared.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = memoryview(bytearray(_CACHED_PIECE_BYTES))

    def next(self) -> memoryview:
        """The one buffer: it is written before the next piece begins."""
        return self._buffer

    def write(self, piece: memoryview, offset: int) -> None:
        """Writes a piece."""
        system_calls.write_all(self._fd, piece)
        system_calls.start_writeback(self._fd, offset, len(piece))

    def finish(self, piece: memoryview, filled: int, offset: int) -> None:
        """Writes the rest."""
        self.write(piece[:filled], offset)

    def stop(self) -> None:
        """Nothing writes any more."""


class PassedOnPieces:
    """Pieces that a thread writes through the page cache, each while the caller fills the next."""

    def __init__(self, fd: int) -> None:
        """Takes an empty file, open for writing."""
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._buffers = [take_buffer(_CACHED_PIECE_BYTES) for _ in range(_BUFFERS)]
        for one in self._buffers:
            self._free.put(one)
        self._thread = CachedThread(fd, self._free.put)

    def next(self) -> memoryview:
        """A buffer; waits until one has been written."""
        return self._free.get()

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a piece written."""
        self._thread.write(piece, offset)

    def finish(self, piece: memoryview, filled: int, offset: int) -> None:
        """Writes the rest."""
        if filled:
            self._thread.write(piece[:filled], offset)
        self._thread.finish()

    def stop(self) -> None:
        """Ends the thread; see `WritingThreads.stop`."""
        try:
            self._thread.stop()
        finally:
            own, self._buffers = self._buffers, []
            give_back_buffers(own)


@contextlib.contextmanager
def open_writer(fd: int, expected_bytes: int, image: memoryview | None = None) -> Iterator[Writer]:
    """Chooses how to fill an empty file; nothing writes to it any more when the context ends.

    Args:
        fd: the file, open for writing.
        expected_bytes: how long it will be, roughly.
        image: memory in which parts of the file lie at their place; see `DirectPieces`.
    """
    writer = Writer(_pieces(fd, expected_bytes, image))
    try:
        yield writer
    finally:
        writer.stop()


def _pieces(fd: int, expected_bytes: int, image: memoryview | None) -> Pieces:
    if expected_bytes < _LARGE_BYTES:
        return CachedPieces(fd)
    if not _is_in_memory(fd):
        try:
            return DirectPieces(fd, expected_bytes, image)
        except OSError as error:
            if error.errno not in system_calls.REFUSALS:
                raise
    return PassedOnPieces(fd)


def _is_in_memory(fd: int) -> bool:
    """Whether there is no disk below; newer kernels accept O_DIRECT on tmpfs and make a detour of it."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with (
        contextlib.suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts,
    ):
        for line in mounts:
            head, _, tail = line.partition(" - ")  # proc_pid_mountinfo(5)
            if head.split()[2] == wanted:
                return tail.split()[0] in _IN_MEMORY
    return False
