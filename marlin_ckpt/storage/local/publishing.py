"""Atomic, durable publication of a file on a local file system.

The order is: write a temporary file in the target's directory, fsync it, rename it over the final name, fsync
the directory. After `publish` returned, the new file survives a power loss; whatever happens before, the old
one is whole. Not promised: what a disk does that acknowledges a flush and then forgets it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import TypeVar

from marlin_ckpt.errors import StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.local import temporary
from marlin_ckpt.storage.local.files import open_regular

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Written = TypeVar("Written")


def make_directory(directory: PathText) -> None:
    """Makes a directory and its parents where they are missing, and makes new ones durable.

    Raises:
        StorageError: the path is a file, or cannot be made.
    """
    missing = []
    try:
        path = os.path.abspath(directory)
        while not os.path.lexists(path):
            missing.append(path)
            path = os.path.dirname(path)
        for one in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process made it meanwhile
                os.mkdir(one)
            _sync_directory(os.path.dirname(one))
    except OSError as error:
        raise StorageError.of("cannot make the directory", os.fspath(directory), error) from error
    if not os.path.isdir(directory):
        what = "cannot make the directory: a file is in the way"
        raise StorageError(what, os.fspath(directory), errno=errno.ENOTDIR)


def publish(
    path: PathText, write: Callable[[int], Written], before_renaming: Callable[[], None] = lambda: None
) -> Written:
    """Writes a file under its final name, whole and durable, or not at all.

    Args:
        path: the final name; a file that has it is replaced in one instant.
        write: is given the file descriptor of the empty temporary file and fills it.
        before_renaming: called when the file's content is durable, and only its name is not yet there.

    Returns:
        what `write` returned.

    Raises:
        StorageError: a system call failed; the old file stands and the temporary one is removed. Whatever
            else the functions raise passes through, after the same tidying.
    """
    text = os.fspath(path)
    try:
        directory, name = os.path.split(os.path.abspath(text))
        directory_fd = os.open(directory, _DIRECTORY)
    except OSError as error:
        raise StorageError.of("cannot write", text, error) from error
    try:
        return _publish_in(directory_fd, name, write, before_renaming)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError.of("cannot write", text, error) from error
    finally:
        _close_quietly(directory_fd)


def _publish_in(
    directory_fd: int, name: str, write: Callable[[int], Written], before_renaming: Callable[[], None]
) -> Written:
    fd, temporary_name = temporary.create(directory_fd, name)
    litter = [temporary_name]
    lock_fd = old_fd = -1
    try:
        # The lock belongs to the open file, not to a descriptor: this second one holds it over the rename,
        # while the first is closed before it, since some file systems report a failed write only then.
        lock_fd = _duplicate(fd)
        written = _fill(fd, write)
        before_renaming()
        old_fd, kept = _keep(directory_fd, name, litter)
        os.rename(temporary_name, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        litter.remove(temporary_name)
        try:
            sync_open_directory(directory_fd)
        except OSError:
            _put_back(directory_fd, name, kept)
            raise
        return written
    finally:
        for one in litter:
            with contextlib.suppress(OSError):
                os.unlink(one, dir_fd=directory_fd)
        _close_quietly(lock_fd)
        _close_quietly(old_fd)


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError:
        _close_quietly(fd)
        raise


def _fill(fd: int, write: Callable[[int], Written]) -> Written:
    """Writes, syncs and closes; the first error is the one that is raised."""
    try:
        written = write(fd)
        # A failed fsync may have dropped the pages, and a second one may then report success (seen on xfs):
        # the error ends this file's life.
        os.fsync(fd)
    except BaseException:
        _close_quietly(fd)
        raise
    os.close(fd)
    return written


def _keep(directory_fd: int, name: str, litter: list[str]) -> tuple[int, str | None]:
    """Gives the old file a second name for as long as the new one is not durable.

    Returns:
        a descriptor whose lock keeps cleaners from the second name, or -1, and that name; "" where there is
        no old file, None where it cannot be kept: the file system has no hard links, say.
    """
    old_fd = -1
    try:
        old_fd = temporary.open_locked(directory_fd, name)
        kept = temporary.temporary_name(name)
        os.link(name, kept, src_dir_fd=directory_fd, dst_dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return old_fd, ""
    except OSError:
        return old_fd, None
    litter.append(kept)
    return old_fd, kept


def _put_back(directory_fd: int, name: str, kept: str | None) -> None:
    """Undoes a rename that could not be made durable; without hard links the new file, whole, stays."""
    with contextlib.suppress(OSError):
        if kept:
            os.rename(kept, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        elif kept is not None:
            os.unlink(name, dir_fd=directory_fd)


def _close_quietly(fd: int) -> None:
    """Closes a descriptor through which nothing was written, or after an error that counts more."""
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)


def _sync_directory(directory: str) -> None:
    fd = os.open(directory, _DIRECTORY)
    try:
        sync_open_directory(fd)
    finally:
        os.close(fd)


def make_durable(path: str) -> None:
    """Waits until a file that others may have written is on the disk, and its name is.

    Raises:
        StorageError: a system call failed.
    """
    try:
        fd = open_regular(path)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync_directory(os.path.dirname(path) or os.curdir)
    except OSError as error:
        raise StorageError.of("cannot make durable", path, error) from error


def sync_open_directory(fd: int) -> None:
    """Waits until the names in an open directory are on the disk, as far as its file system can tell.

    Raises:
        OSError: the system call failed.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and FUSE file systems know no fsync of directories, and say so; they order renames
        # themselves or not at all.
        if error.errno != errno.EINVAL:
            raise


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Writes all of a buffer; write(2) may take less than it is given.

    Raises:
        OSError: as write(2) does.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
