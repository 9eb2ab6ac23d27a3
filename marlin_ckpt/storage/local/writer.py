"""Chooses the way of a file's pieces to the disk: past the page cache, or through it."""

import contextlib
import os
from collections.abc import Iterator

from marlin_ckpt.storage.local import cloning, system_calls
from marlin_ckpt.storage.local.direct import DirectPieces
from marlin_ckpt.storage.local.threads import (
    PIECE_BYTES,
    Buffers,
    CachedThread,
    give_back_buffers,
    take_buffer,
)
from marlin_ckpt.storage.target import Span
from marlin_ckpt.storage.writer import Pieces, Writer

# Below this the page cache takes the bytes faster than a disk's round trips, and a thread beside the one that
# fills gains nothing; measured on ext4.
_LARGE_BYTES = 64 << 20
# Calls of 1 MiB write to the page cache several times faster than calls of 64 MiB, which make the kernel take
# 2 MiB folios. A file system in memory makes none, and is faster with longer pieces, which change threads
# less often: the fastest of 11 on tmpfs took 622 ms for 1.49 GB with 4 MiB, in place of 738 ms.
_CACHED_PIECE_BYTES = 1 << 20
_IN_MEMORY_PIECE_BYTES = 4 << 20
_BUFFERS = 3
_IN_MEMORY = {"tmpfs", "ramfs"}


class CachedPieces:
    """Pieces that are written through the page cache, used as `DirectPieces` are.

    The disk begins with each while more is prepared.
    """

    def __init__(self, fd: int, expected_bytes: int) -> None:
        """Takes an empty file, open for writing, and how long it will be, roughly."""
        self._fd = fd
        self._own: list[memoryview] = []
        if expected_bytes < _CACHED_PIECE_BYTES:  # a huge page would take longer to clear than to fill
            self._buffer = memoryview(bytearray(_CACHED_PIECE_BYTES))
        else:
            self._own.append(take_buffer(PIECE_BYTES))
            self._buffer = self._own[0][:_CACHED_PIECE_BYTES]
        self._end = 0  # of the last piece in the file

    def next(self, offset: int) -> memoryview:  # noqa: ARG002 - it is the same everywhere
        """The one buffer: it is written before the next piece begins."""
        return self._buffer

    def write(self, piece: memoryview, offset: int) -> None:
        """Writes a piece."""
        if offset != self._end:  # behind blocks that are shared
            os.lseek(self._fd, offset, os.SEEK_SET)
        system_calls.write_all(self._fd, piece)
        system_calls.start_writeback(self._fd, offset, len(piece))
        self._end = offset + len(piece)

    def share(self, offset: int, span: Span) -> int:
        """Shares blocks with another file; see `Pieces.share`."""
        return cloning.share(self._fd, offset, span)

    def finish(self, piece: memoryview, filled: int, offset: int) -> None:
        """Writes the rest."""
        self.write(piece[:filled], offset)

    def stop(self) -> None:
        """Gives the buffer to the next file; nothing writes any more."""
        own, self._own, self._buffer = self._own, [], memoryview(b"")
        give_back_buffers(own)


class PassedOnPieces:
    """Pieces that a thread writes through the page cache, each while the caller fills the next."""

    def __init__(self, fd: int, piece_bytes: int | None = None) -> None:
        """Takes an empty file, open for writing, and how much is written at once; None: what suits a disk."""
        self._fd = fd
        self._buffers = Buffers(_BUFFERS, piece_bytes or _CACHED_PIECE_BYTES)
        self._thread = CachedThread(fd, self._buffers.is_written)

    def next(self, offset: int) -> memoryview:  # noqa: ARG002 - as above
        """A buffer; waits until one has been written."""
        return self._buffers.next()

    def write(self, piece: memoryview, offset: int) -> None:
        """Has a piece written."""
        self._thread.write(piece, offset)

    def share(self, offset: int, span: Span) -> int:
        """Shares blocks with another file; see `Pieces.share`."""
        return cloning.share(self._fd, offset, span)

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
            self._buffers.give_back()


@contextlib.contextmanager
def open_writer(
    fd: int, expected_bytes: int, image: memoryview | None = None, *, shared_bytes: int | None = None
) -> Iterator[Writer]:
    """Chooses how to fill an empty file; nothing writes to it any more when the context ends.

    Args:
        fd: the file, open for writing.
        expected_bytes: how long it will be, roughly.
        image: memory in which parts of the file lie at their place; see `DirectPieces`.
        shared_bytes: how many of these bytes, roughly, will be shared with other files; None where none can
            be.
    """
    writer = Writer(_pieces(fd, expected_bytes, image, shared_bytes))
    try:
        yield writer
    finally:
        writer.stop()


def _pieces(fd: int, expected_bytes: int, image: memoryview | None, shared_bytes: int | None) -> Pieces:
    if expected_bytes - (shared_bytes or 0) < _LARGE_BYTES:
        return CachedPieces(fd, expected_bytes)
    if _is_in_memory(fd):
        return PassedOnPieces(fd, _IN_MEMORY_PIECE_BYTES)
    try:
        return DirectPieces(fd, expected_bytes, image, shared_bytes=shared_bytes)
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
