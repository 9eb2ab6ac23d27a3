"""Where a file lies on the disk, as far as its file system says it."""

import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

# fiemap.rst of the kernel's documentation: struct fiemap and struct fiemap_extent of linux/fiemap.h.
_FIEMAP = 0xC020660B
_MAP = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQQQLLLL")
_IS_SHARED, _IS_PACKED = 0x2000, 0x8
_HAS_NO_PLACE = 0x2 | 0x4 | 0x100 | 0x200 | 0x400  # unknown, still in memory, not aligned, with other data
# As many as fit 1 KiB: over more `fcntl.ioctl` keeps the interpreter's lock.
_EXTENTS = (1024 - _MAP.size) // _EXTENT.size


class Extent(NamedTuple):
    """A stretch of a file that is on the disk.

    Attributes:
        start: where it begins in the file.
        size: its length in bytes.
        place: where it begins on the disk, or, where `is_packed`, what it is packed in begins; None where it
            lies with what the file system knows of the file, or is still in memory.
        is_shared: whether another file has it, too.
        is_packed: whether the file system has compressed it.
    """

    start: int
    size: int
    place: int | None
    is_shared: bool
    is_packed: bool


def extents(fd: int) -> Iterator[Extent]:
    """Where a file lies on the disk.

    What is set aside behind its end is not said; XFS gives it back when the file is closed.

    Args:
        fd: the file, open for reading.

    Yields:
        its stretches, in their order.

    Raises:
        OSError: the file system does not say.
    """
    at, end = 0, os.fstat(fd).st_size
    while at < end:
        head = _MAP.pack(at, end - at, 0, 0, _EXTENTS, 0)
        found = fcntl.ioctl(fd, _FIEMAP, head + bytes(_EXTENTS * _EXTENT.size))
        count = _MAP.unpack_from(found)[3]
        for number in range(count):
            one = _EXTENT.unpack_from(found, _MAP.size + number * _EXTENT.size)
            first, place, size, flags = one[0], one[1], one[2], one[5]
            start, stop = max(first, at), min(first + size, end)
            is_packed = bool(flags & _IS_PACKED)
            known = None if flags & _HAS_NO_PLACE else place + (0 if is_packed else start - first)
            yield Extent(start, stop - start, known, bool(flags & _IS_SHARED), is_packed)
            at = stop
        if count < _EXTENTS:
            return
