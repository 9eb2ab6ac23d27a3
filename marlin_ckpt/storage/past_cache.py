"""Reads stretches of files that are in no memory past the page cache, at the disk's own speed."""

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator

from marlin_ckpt.storage.local.files import close_quietly
from marlin_ckpt.storage.local.threads import PIECE_BYTES, give_back_buffers, take_buffer

_BLOCK_BYTES = 4096  # the greatest logical block of a disk in use
_LIBC = ctypes.CDLL(None, use_errno=True)
_LOOKED_AT = 16  # pages of a stretch; to look at all of them takes a seventh of the time of a warm `verify`
# Of what is mostly in memory the rest is not worth a detour.
_COLD_SHARE = 8
# How many ranks there are on this machine, which torchrun sets, or else in all, which others do.
_RANKS = ("LOCAL_WORLD_SIZE", "WORLD_SIZE")


class PastCache:
    """A file that is read in pieces of 4 MiB with O_DIRECT, which the disk fills in a few long stretches.

    Through the page cache it would fill pages of 4 KiB. Measured on ext4 on a virtual disk, cold, two cores,
    medians of five: 1.57 GB took 538 ms so, 672 ms through the page cache.
    """

    def __init__(self, fd: int, direct: int, buffer: memoryview, end: int) -> None:
        """Takes what it reads with.

        Args:
            fd: the file.
            direct: the same file, open with O_DIRECT.
            buffer: memory in whole blocks that begins at a page's border.
            end: of the stretch in the file: what comes behind it is another reader's, and not read in vain.
        """
        self._fd, self._direct, self._buffer = fd, direct, buffer
        self._end = -(-end // _BLOCK_BYTES) * _BLOCK_BYTES
        self._start = self._size = 0  # of what the buffer holds of the file
        self._is_refused = False

    def read(self, into: memoryview, offset: int) -> int:
        """Reads from an offset on; see preadv(2).

        Args:
            into: writable memory.
            offset: in the file.

        Returns:
            how many bytes were read, which may be fewer than there are; 0 where the file ends.

        Raises:
            OSError: as preadv(2) does.
        """
        # 0: a read that was cut short may have ended within the block, before the offset.
        return self._read_directly(into, offset) or os.preadv(self._fd, [into], offset)

    def _read_directly(self, into: memoryview, offset: int) -> int:
        if self._is_refused:
            return 0
        if not self._start <= offset < self._start + self._size:
            self._size = 0  # nothing, should this fail
            self._start = offset - offset % _BLOCK_BYTES
            wanted = self._end - self._start if self._start < self._end else len(self._buffer)
            try:
                self._size = os.preadv(self._direct, [self._buffer[:wanted]], self._start)
            except OSError as error:
                if error.errno is None:  # none of the system's: a signal's handler has raised it, an alarm's
                    raise
                # Some file systems refuse only now, or some offsets alone; and a bad block elsewhere in the
                # piece must not cost what is asked for.
                self._is_refused = True
                return 0
        at = offset - self._start
        piece = self._buffer[at : min(self._size, at + len(into))]
        if piece:
            # memmove(3) through ctypes lets go of the interpreter's lock.
            there, here = (ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (piece, into))
            ctypes.memmove(here, there, len(piece))
        return len(piece)


@contextlib.contextmanager
def opened_anew(fd: int, offset: int, size: int) -> Iterator[tuple[int, PastCache | None]]:
    """Opens a file once more for a reader that goes through a long stretch of it in order.

    The kernel reads ahead by where the last read of an open file ended: with each read of another thread it
    would begin anew, and a file that is in no memory took a fourth longer.

    Args:
        fd: the file.
        offset: where the stretch begins.
        size: its length.

    Yields:
        a descriptor of its own, or `fd` where the file cannot be opened any more; and what reads it past the
        page cache, None where that is as good: the stretch is in it, other ranks of this machine read the
        same, or the file system has no O_DIRECT.
    """
    with contextlib.ExitStack() as stack:
        again, past_cache = fd, None
        with contextlib.suppress(OSError):  # /proc may not be mounted
            path = f"/proc/self/fd/{fd}"
            again = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(close_quietly, again)
            ranks = next(filter(None, map(os.environ.get, _RANKS)), "1")
            if ranks == "1" and _is_cold(fd, offset, size):
                direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
                stack.callback(close_quietly, direct)
                buffer = take_buffer(PIECE_BYTES)
                stack.callback(give_back_buffers, [buffer])
                past_cache = PastCache(again, direct, buffer, offset + size)
        yield again, past_cache


def _is_cold(fd: int, offset: int, size: int) -> bool:
    """Whether hardly any page of a stretch is in the page cache, by mincore(2) of some; none is touched."""
    start = offset - offset % mmap.PAGESIZE
    length = min(offset + size, os.fstat(fd).st_size) - start
    if length < _LOOKED_AT:
        return False
    is_there, found = ctypes.c_ubyte(), 0
    try:
        # Private and writable, since ctypes gives no address of memory that is not.
        with mmap.mmap(fd, length, access=mmap.ACCESS_COPY, offset=start) as mapping:
            first = ctypes.c_char.from_buffer(mapping)
            address = ctypes.addressof(first)
            del first  # a mapping with a pointer to it cannot be closed
            for number in range(_LOOKED_AT):
                at = length * number // _LOOKED_AT
                place = ctypes.c_void_p(address + at - at % mmap.PAGESIZE)
                if _LIBC.mincore(place, ctypes.c_size_t(1), ctypes.byref(is_there)):
                    return False
                found += is_there.value & 1
    except (OSError, ValueError):  # of a file that has just been cut, say
        return False
    return found <= _LOOKED_AT // _COLD_SHARE
