"""System calls of a writer: O_DIRECT, space set aside, writeback, whole writes, names exchanged, access."""

import contextlib
import ctypes
import errno
import fcntl
import os

# How a file system says that it has no O_DIRECT or sets no space aside; ENOSYS is a kernel's or a sandbox's.
REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
BLOCK_BYTES = 4096  # the greatest logical block of a disk in use

_LIBC = ctypes.CDLL(None, use_errno=True)
_RENAME_EXCHANGE = 2  # linux/fs.h


def set_direct(fd: int, *, on: bool) -> None:
    """Switches O_DIRECT on or off, for this descriptor and its duplicates.

    Raises:
        OSError: one of `REFUSALS`, there is none.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
    if wanted != flags:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)


def allocate(fd: int, size_bytes: int) -> None:
    """Sets space aside for a file, by fallocate(2).

    Not `os.posix_fallocate`: where the file system has no such call (NFS before 4.2, many FUSE ones), glibc
    writes one byte into each block instead (posix_fallocate(3), Notes), over a network a round trip for each.

    Raises:
        OSError: ENOSPC, there is no room; one of `REFUSALS`, the file system sets none aside.
    """
    while _LIBC.fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes)):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Has the disk begin with what lies in the page cache.

    Linux starts to write the pages of a range that is not needed, where sync_file_range(2), which is there
    for that, is not to be had from Python; dirty ones stay (mm/fadvise.c). A save of 10 MB took 0.7 of the
    time, most of which an fsync with everything left to do had taken.
    """
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)


def write_all(fd: int, data: memoryview) -> None:
    """Writes all of a buffer; write(2) may take less than it is given.

    Raises:
        OSError: as write(2) does.
    """
    while data:
        data = data[os.write(fd, data) :]


def check_access(path: str, mode: int) -> None:
    """Checks that this process may do something with a path, as `os.access`, which does not say why not.

    Args:
        path: that a link may lead to.
        mode: of access(2): `os.W_OK | os.X_OK`, say.

    Raises:
        OSError: it may not; EROFS on a file system that is mounted read-only, say.
    """
    if _LIBC.access(os.fsencode(path), mode):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)


def exchange(directory_fd: int, one: str, other: str) -> None:
    """Has two names in an open directory change places, in one instant, by renameat2(2).

    Raises:
        OSError: one of `REFUSALS`, the file system cannot do it (NFS, say); or as rename(2) does.
    """
    if not hasattr(_LIBC, "renameat2"):  # a C library older than glibc 2.28
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), other)
    before, after = os.fsencode(one), os.fsencode(other)
    if _LIBC.renameat2(directory_fd, before, directory_fd, after, _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), other)
