"""A file system that shares blocks between files, or fails to, for tests where there is none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from marlin_ckpt.storage import extents, space
from marlin_ckpt.storage.local import cloning

CLONE_RANGE, EXTENTS = 0x4020940D, 0xC020660B
_LAST, _SHARED = 0x1, 0x2000
_APART = 1 << 40  # between the places of two files
BLOCK = 4096
# All but those of a full disk; EINTR and EAGAIN stand for whatever else a kernel may say.
REFUSALS = [
    errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EIO, errno.EPERM, errno.EBADF,
    errno.ETXTBSY, errno.EINTR, errno.EAGAIN,
]  # fmt: skip
FULL = [errno.ENOSPC, errno.EDQUOT]


class Clones:
    """Copies what is to be shared, as strict about blocks as a system is; each call can be made to fail.

    It says where files lie as a system does that shares: what was shared lies where the source has it.

    Attributes:
        shared: of each range, where it begins in the file and its length, in their order.
        code: of the error that all calls raise; 0 for none.
        spoils: a call that fails has written something else into the first half of its range.
    """

    def __init__(self, block: int = BLOCK) -> None:
        self.shared: list[tuple[int, int]] = []
        self.code = 0
        self.spoils = False
        self._block = block
        # By the number of an inode, which no other file gets while the descriptor is open.
        self._open: dict[int, int] = {}
        self._places: dict[int, list[tuple[int, int, int]]] = {}  # start, stop, place

    def __del__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Lets go of all files."""
        while self._open:
            os.close(self._open.popitem()[1])
        self._places.clear()

    def put_in(self, patch: pytest.MonkeyPatch) -> Clones:
        patch.setattr(cloning, "fcntl", self)
        patch.setattr(extents, "fcntl", self)
        patch.setattr(cloning, "_known", {})
        patch.setattr(space, "_tells", lambda *_: True)
        return self

    def ioctl(self, fd: int, request: int, argument: Any) -> Any:
        if request == EXTENTS:
            return self._extents(fd, argument)
        if request != CLONE_RANGE:
            return fcntl.ioctl(fd, request, argument)
        source, start, size, offset = struct.unpack("=qQQQ", argument)
        if (start | size | offset) % self._block or not size:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        data = os.pread(source, size, start)
        if len(data) < size:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self.code:
            if self.spoils:
                _write(fd, bytes(size // 2), offset)
            raise OSError(self.code, os.strerror(self.code))
        _write(fd, data, offset)
        self.shared.append((offset, size))
        mine, others = self._inode(fd), self._inode(source)
        for first, stop, place in [*self._lie(others, start, start + size)]:
            self._places[mine].append((first - start + offset, stop - start + offset, place))
        self._places[mine].sort()
        return argument

    def _inode(self, fd: int) -> int:
        inode = os.fstat(fd).st_ino
        if inode not in self._open:
            self._open[inode] = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)  # without its lock
            self._places[inode] = []
        return inode

    def _lie(self, inode: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The stretches of a part of a file, each with its place: its own between those that it shares."""
        at = start
        for first, end, place in self._places.get(inode, []):
            if end <= at or first >= stop:
                continue
            if first > at:
                yield at, first, inode * _APART + at
            at, until = max(at, first), min(end, stop)
            yield at, until, place + at - first
            at = until
        if at < stop:
            yield at, stop, inode * _APART + at

    def _extents(self, fd: int, argument: bytes) -> bytes:
        start, _, _, _, most, _ = struct.unpack_from("=QQLLLL", argument)
        inode, end = os.fstat(fd).st_ino, -(-os.fstat(fd).st_size // self._block) * self._block
        there = {one: opened for one, opened in self._open.items() if os.fstat(opened).st_nlink}
        others = [
            (place, place + stop - first)
            for one, opened in there.items()
            if one != inode
            for first, stop, place in self._lie(one, 0, os.fstat(opened).st_size)
        ]
        edges = sorted({edge for other in others for edge in other})
        found = []
        for first, stop, place in self._lie(inode, start, end):
            cuts = [edge for edge in edges if place < edge < place + stop - first]
            for low, high in itertools.pairwise([place, *cuts, place + stop - first]):
                is_shared = any(low < there_end and high > there for there, there_end in others)
                found.append((first + low - place, low, high - low, _SHARED * is_shared))
        rows = [
            struct.pack("=QQQQQLLLL", *one[:3], 0, 0, one[3] | _LAST * (number == len(found)), 0, 0, 0)
            for number, one in enumerate(found[:most], 1)
        ]
        head = struct.pack("=QQLLLL", start, end - start, 0, len(rows), most, 0)
        return (head + b"".join(rows)).ljust(len(argument), b"\0")


@contextlib.contextmanager
def shared_blocks() -> Iterator[Clones]:
    """A file system that shares blocks between files, and says which."""
    with pytest.MonkeyPatch.context() as patch:
        yield Clones().put_in(patch)


def _write(fd: int, data: bytes, offset: int) -> None:
    with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as through_the_cache:  # takes any length
        os.pwrite(through_the_cache.fileno(), data, offset)
