"""Going down a directory tree by open directories, without following a symbolic link."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from marlin_ckpt.errors import CheckpointNotFoundError, StorageError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Identity = tuple[int, ...]


def open_top(text: str) -> int:
    """Opens the directory that a person named.

    Args:
        text: without a slash at its end, with which a link would be followed whatever O_NOFOLLOW says.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """
    try:
        return os.open(text, DIRECTORY)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError("no such directory", text) from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and os.path.islink(text):
            hint = "name the directory that it points to"
            with contextlib.suppress(OSError):  # the link may be gone again
                hint += f": {os.path.realpath(text)}"
            what = "refused: removing through a symbolic link"
            raise StorageError(what, text, hint, errno=errno.ELOOP) from error
        raise StorageError.of("cannot read the directory", text, error) from error


@contextlib.contextmanager
def opened(top_fd: int, parts: tuple[str, ...]) -> Iterator[tuple[int, tuple[Identity, ...]]]:
    """Goes down from an open directory, which it closes.

    Args:
        top_fd: the directory.
        parts: the names of the sub-directories on the way.

    Yields:
        the last directory's descriptor, and the identity of each on the way.
    """
    fd = top_fd
    try:
        directories = [directory_identity(os.fstat(fd))]
        for part in parts:
            child = os.open(part, DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = child
            directories.append(directory_identity(os.fstat(fd)))
        yield fd, tuple(directories)
    finally:
        os.close(fd)


def directory_identity(status: os.stat_result) -> Identity:
    """What tells a directory from another of its name: device and inode."""
    return (status.st_dev, status.st_ino)


def file_identity(status: os.stat_result) -> Identity:
    """What tells a file from another of its name.

    Device, inode and when it was last written: a freed inode number is used again at once. Not the time of
    its change, which removing another of its names moves.
    """
    return (status.st_dev, status.st_ino, status.st_mtime_ns)
