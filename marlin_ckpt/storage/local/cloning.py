"""Bytes on a disk that several files share, where the file system can do it: XFS, btrfs, bcachefs, NFS 4.2.

Each file is as whole as if it had bytes of its own: what one of them writes or removes changes no other.
"""

import contextlib
import errno
import fcntl
import os
import struct

from marlin_ckpt.storage.local import system_calls, temporary
from marlin_ckpt.storage.local.files import close_quietly, closing
from marlin_ckpt.storage.target import Span

# ioctl_ficlonerange(2): struct file_clone_range of linux/fs.h.
_CLONE_RANGE = 0x4020940D
_RANGE = struct.Struct("=qQQQ")
_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
MOST_BLOCK_BYTES = 64 << 10  # to which records can be aligned
# From that of disks, which writes past the page cache need.
_BLOCK_SIZES = [system_calls.BLOCK_BYTES << doublings for doublings in range(5)]
_TARGET = "clone"  # what the temporary files are for, in their names

_known: dict[int, int | None] = {}  # by st_dev


def block_bytes(directory: str) -> int | None:
    """Finds out whether files in a directory can share bytes, by a trial once for each file system.

    Args:
        directory: in which two files are made and removed at once.

    Returns:
        what the offsets of shared ranges are multiples of; None where nothing can be shared, or no file be
        made.
    """
    with contextlib.suppress(OSError), closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as top:
        device = os.fstat(top).st_dev
        if device not in _known:
            _known[device] = _tried(top)
        return _known[device]
    return None


def _tried(top: int) -> int | None:
    with contextlib.ExitStack() as stack:
        source, fd = (_made(top, stack) for _ in range(2))
        data = os.urandom(2 * MOST_BLOCK_BYTES)
        os.pwrite(source, data, 0)
        for block in _BLOCK_SIZES:
            if clone(fd, 3 * block, source, block, block):
                return block if os.pread(fd, 2 * block, 3 * block) == data[block : 2 * block] else None
    return None


def _made(top: int, stack: contextlib.ExitStack) -> int:
    fd, name = temporary.create(top, _TARGET, is_private=True)
    stack.callback(close_quietly, fd)
    os.unlink(name, dir_fd=top)
    return fd


def share(fd: int, offset: int, span: Span) -> int:
    """Has a file share the whole blocks of a stretch of another, as far as it can.

    Args:
        fd: the file, open for writing.
        offset: in it, where the stretch begins.
        span: the stretch.

    Returns:
        how many bytes from its start are shared now, 0 where they cannot be.

    Raises:
        OSError: the disk or a quota is full.
    """
    block = _known.get(os.fstat(fd).st_dev) or _BLOCK_SIZES[0]
    size = span.size - span.size % block
    if not size or offset % block or span.start % block:
        return 0
    return size if clone(fd, offset, span.source, span.start, size) else 0


def clone(fd: int, offset: int, source_fd: int, start: int, size: int) -> bool:
    """Has a range of a file share its bytes with one of another file; both may also be cached or written to.

    Args:
        fd: the file, open for writing.
        offset: of the range in it.
        source_fd: the other one, open for reading.
        start: of the range in that.
        size: of both, more than 0.

    Returns:
        whether it does now; where it does not, what the range holds is undefined.

    Raises:
        OSError: ENOSPC, EDQUOT: the disk or a quota is full, with which writing would fail as well.
    """
    try:
        clone_range(fd, offset, source_fd, start, size)
    except OSError as error:
        if error.errno in _IS_FULL:
            raise
        return False
    return True


def clone_range(fd: int, offset: int, source_fd: int, start: int, size: int) -> None:
    """Does the same, but raises OSError where it cannot, as ioctl_ficlonerange(2)."""
    fcntl.ioctl(fd, _CLONE_RANGE, _RANGE.pack(source_fd, start, size, offset))
