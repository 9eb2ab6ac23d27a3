"""The one writer of files: it copies what it is given into pieces of memory, and has each full piece written.

The bytes are summed where they are copied to, so that the checksum is that of the file, whatever other
threads do meanwhile to the tensors that they come from.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator

from isal import isal_zlib

from marlin_ckpt.storage.local import system_calls
from marlin_ckpt.storage.local.direct import DirectPieces
from marlin_ckpt.storage.target import OnStored

# Below this the page cache takes the bytes faster than a disk's round trips; measured on ext4.
_DIRECT_FROM_BYTES = 64 << 20
# Calls of 1 MiB write to the page cache several times faster than calls of 64 MiB, which make the kernel take
# 2 MiB folios.
_CACHED_PIECE_BYTES = 1 << 20
_SUMMED_BYTES = 1 << 20  # copied at a time: still in the processor's cache when they are summed
_WORTH_A_CALL_BYTES = 16 << 10
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


class Writer:
    """Fills an empty file from front to back: the `Target` of a local store."""

    def __init__(self, pieces: DirectPieces | CachedPieces) -> None:
        self._pieces = pieces
        self._piece = pieces.next()
        self._filled = 0
        self._offset = 0  # of the piece in the file

    def put(self, data: bytes | memoryview, on_stored: OnStored | None = None) -> int:
        """Appends bytes; see `Target.put`. Those that lie at their place in an image are not copied."""
        view = memoryview(data)
        crc32 = 0
        while view:
            size = min(len(view), len(self._piece) - self._filled, _SUMMED_BYTES)
            place = self._piece[self._filled : self._filled + size]
            _copy(view[:size], place)
            crc32 = isal_zlib.crc32(place, crc32)
            if on_stored is not None:
                on_stored(place)
            self._filled += size
            view = view[size:]
            if self._filled == len(self._piece):
                self._pieces.write(self._piece, self._offset)
                self._offset += self._filled
                self._filled = 0
                self._piece = self._pieces.next()
        return crc32

    def finish(self) -> int:
        """Hands everything to the system; what remains is an fsync.

        Returns:
            the file's length in bytes.

        Raises:
            OSError: something cannot be written.
        """
        self._pieces.finish(self._piece, self._filled, self._offset)
        return self._offset + self._filled

    def stop(self) -> None:
        """Ends whatever still writes, whether the file is complete or not."""
        self._pieces.stop()


def _copy(source: memoryview, place: memoryview) -> None:
    if source.readonly or len(source) < _WORTH_A_CALL_BYTES:
        place[:] = source
        return
    # memmove(3) through ctypes lets go of the interpreter's lock; a slice assignment would hold it, and the
    # threads that write would wait for it up to the switch interval of 5 ms after each write.
    there, here = (ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (source, place))
    if there != here:
        ctypes.memmove(here, there, len(source))


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
