"""Chooses the way of a file's pieces to the disk: past the page cache, or through it."""

import contextlib
import os
from collections.abc import Iterator

from marlin_ckpt.storage.local import system_calls
from marlin_ckpt.storage.local.direct import DirectPieces
from marlin_ckpt.storage.writer import Writer

# Below this the page cache takes the bytes faster than a disk's round trips; measured on ext4.
_DIRECT_FROM_BYTES = 64 << 20
# Calls of 1 MiB write to the page cache several times faster than calls of 64 MiB, which make the kernel take
# 2 MiB folios.
_CACHED_PIECE_BYTES = 1 << 20
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


def _pieces(fd: int, expected_bytes: int, image: memoryview | None) -> DirectPieces | CachedPieces:
    if expected_bytes >= _DIRECT_FROM_BYTES and not _is_in_memory(fd):
        try:
            return DirectPieces(fd, expected_bytes, image)
        except OSError as error:
            if error.errno not in system_calls.REFUSALS:
                raise
    return CachedPieces(fd)


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
