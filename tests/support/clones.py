"""A file system that shares blocks between files, or fails to, for tests where there is none."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Any

import pytest

from marlin_ckpt.storage.local import cloning

CLONE_RANGE = 0x4020940D
BLOCK = 4096
# All but those of a full disk; EINTR and EAGAIN stand for whatever else a kernel may say.
REFUSALS = [
    errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EIO, errno.EPERM, errno.EBADF,
    errno.ETXTBSY, errno.EINTR, errno.EAGAIN,
]  # fmt: skip
FULL = [errno.ENOSPC, errno.EDQUOT]


class Clones:
    """Copies what is to be shared, as strict about blocks as a system is; each call can be made to fail.

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

    def put_in(self, patch: pytest.MonkeyPatch) -> Clones:
        patch.setattr(cloning, "fcntl", self)
        patch.setattr(cloning, "_known", {})
        return self

    def ioctl(self, fd: int, request: int, argument: Any) -> Any:
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
        return argument


def _write(fd: int, data: bytes, offset: int) -> None:
    with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as through_the_cache:  # takes any length
        os.pwrite(through_the_cache.fileno(), data, offset)
