"""Temporary files: their names, and whether the run that wrote one still lives.

A temporary file lies in its target's own directory, since a rename is atomic within one file system only.
Its name is `.{target}.{host}.{pid}.{token}.marlin-tmp`: it says which file it is for and who writes it, and
no search for checkpoints takes it for one. Its writer holds an flock(2) on it, which the kernel drops when
the process ends, however it ends; so a file whose lock can be had belongs to a dead run. A process id alone
would not tell: ids are used again, and mean nothing on another host.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator

from marlin_ckpt.storage.local.files import close_quietly, closing

SUFFIX = ".marlin-tmp"
_NAME = r"(?s)\.(?P<target>.+)\.(?P<host>[A-Za-z0-9_-]+)\.(?P<pid>[0-9]+)\.[0-9a-f]{8}"
_NAME += SUFFIX.replace(".", r"\.")
_NAME_MAX = 255  # bytes in one file name, NAME_MAX of linux/limits.h
# Some file systems have no locks: NFS without its lock daemon, some FUSE ones. NFS wants a descriptor that is
# open for writing, else EBADF.
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_TO_LOCK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of one of our temporary files."""
    return name.endswith(SUFFIX) and re.fullmatch(_NAME, name) is not None


def _host() -> str:
    import socket  # noqa: PLC0415 - here, since commands that only read start faster without

    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname()[:64]) or "localhost"


def temporary_name(target: str) -> str:
    """A new name for a temporary file, made for the file name `target` (shortened if it is very long)."""
    import secrets  # noqa: PLC0415 - as above

    tail = f".{_host()}.{os.getpid()}.{secrets.token_hex(4)}{SUFFIX}"
    room = _NAME_MAX - 1 - len(tail)
    return "." + os.fsdecode(os.fsencode(target)[:room]) + tail


def create(directory_fd: int, target: str, *, is_private: bool = False) -> tuple[int, str]:
    """Makes and locks a temporary file for `target` in an open directory.

    Args:
        directory_fd: the directory.
        target: the name that the file is for.
        is_private: open to its owner alone, whatever the umask leaves.

    Returns:
        its file descriptor and its name.

    Raises:
        OSError: it cannot be made.
    """
    # O_EXCL and O_NOFOLLOW: a planted file or link of that name is an error, never written through.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        name = temporary_name(target)
        fd = os.open(name, flags, 0o600 if is_private else 0o666, dir_fd=directory_fd)
        try:
            if _lock(fd) is not False and os.fstat(fd).st_nlink:
                return fd, name
        except BaseException:
            _discard(directory_fd, name, fd)
            raise
        # A cleaner saw the file in the instant before it was locked, and may have taken it away.
        _discard(directory_fd, name, fd)


def _discard(directory_fd: int, name: str, fd: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=directory_fd)
    close_quietly(fd)


def _lock(fd: int) -> bool | None:
    """Takes the lock: True had, False held by another, None where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def open_locked(directory_fd: int, name: str) -> int:
    """Opens a file that is to get a temporary name as well, and locks it first, so that no cleaner takes it.

    Returns:
        the file descriptor, whose closing lets go of the lock.

    Raises:
        OSError: it cannot be opened, or is locked by another.
    """
    fd = os.open(name, _TO_LOCK, dir_fd=directory_fd)
    with contextlib.ExitStack() as stack:
        stack.callback(close_quietly, fd)
        if _lock(fd) is False:
            raise BlockingIOError(errno.EAGAIN, "locked by another", name)
        stack.pop_all()
    return fd


@contextlib.contextmanager
def claim(directory_fd: int, name: str) -> Iterator[bool]:
    """Finds out whether the run that wrote a temporary file is dead.

    Yields:
        whether it is; while the context lasts no run can begin to write under that name.

    Raises:
        OSError: the file cannot be opened; FileNotFoundError when its run has just finished with it.
    """
    with closing(os.open(name, _TO_LOCK, dir_fd=directory_fd)) as fd:
        locked = _lock(fd)
        yield _is_dead_here(name) if locked is None else locked


def is_abandoned(directory_fd: int, name: str) -> bool:
    """Whether the run that wrote a temporary file is dead; see `claim`."""
    with claim(directory_fd, name) as abandoned:
        return abandoned


def _is_dead_here(name: str) -> bool:
    """Without locks only the name is left to judge by, and only on the host that it names."""
    match = re.fullmatch(_NAME, name)
    if match is None or match["host"] != _host():
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, ProcessLookupError)
    return False
