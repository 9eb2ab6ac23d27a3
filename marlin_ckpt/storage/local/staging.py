"""A folder that is filled under a temporary name, and then appears whole under its own.

Its temporary name and its lock are those of temporary files (`temporary`), so that a sweep knows which are of
dead processes. Where another folder has the name, the two change names in one instant; the old one then has
the temporary name, and is removed once the new name is durable.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator

from marlin_ckpt.errors import StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.local import descent, moving, temporary, trees
from marlin_ckpt.storage.local.files import (
    absolute,
    close_quietly,
    closing,
    doing,
    file_kind,
    sync_open_directory,
)
from marlin_ckpt.storage.local.system_calls import REFUSALS, exchange

_ASIDE = ".marlin-old"
_LONGEST_WAIT_S = 10.0  # for another process that gives a folder its name, which takes one fsync
_POLL_S = 0.01

_logger = get_logger(__name__)


@contextlib.contextmanager
def new_folder(path: str, *, overwrite: bool) -> Iterator[str]:
    """A folder that appears whole and durable when the block ends, or not at all where it raises.

    Args:
        path: that it will have; the directory that it is in exists.
        overwrite: replace a folder that has the name.

    Yields:
        the path of an empty folder, to be filled with files that are durable.

    Raises:
        StorageError: the name is taken, or a system call failed.
    """
    directory, name = os.path.split(absolute(path))
    with doing("cannot write", path), closing(os.open(directory, descent.DIRECTORY)) as directory_fd:
        check_free(directory_fd, name, path, overwrite=overwrite)
        lock, staged = create(directory_fd, name)
        try:
            yield os.path.join(directory, staged)
            publish(directory_fd, staged, name, path, overwrite=overwrite)
        except BaseException:
            discard(directory_fd, staged, lock)
            raise
        release(lock)


def create(directory_fd: int, target: str) -> tuple[int, str]:
    """Makes and locks an empty folder for `target` in an open directory.

    Returns:
        a descriptor that holds its lock, and its temporary name.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        name = temporary.temporary_name(target)
        os.mkdir(name, dir_fd=directory_fd)
        with contextlib.ExitStack() as stack:
            stack.callback(_remove_empty, directory_fd, name)
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                fd = temporary.open_locked(directory_fd, name)
                stack.callback(close_quietly, fd)
                if os.fstat(fd).st_nlink:
                    stack.pop_all()
                    return fd, name
        # A cleaner saw the folder in the instant before it was locked, and takes it away.


def _remove_empty(directory_fd: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=directory_fd)


def discard(directory_fd: int, name: str, fd: int) -> None:
    """Removes what was staged, as far as the system permits, and lets go of its lock."""
    with contextlib.suppress(OSError):  # the next sweep tries it again
        trees.remove_folder(directory_fd, name)
    release(fd)


def release(fd: int) -> None:
    """Closes a descriptor and lets go of its lock, also where a child process that was forked has it too."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    close_quietly(fd)


def check_free(directory_fd: int, name: str, path: str, *, overwrite: bool) -> None:
    """Looks at what has the name that a folder is to get.

    Args:
        directory_fd: the open directory.
        name: in it.
        path: of the folder, for messages.
        overwrite: another folder may have the name.

    Raises:
        StorageError: a folder has the name and is not to be replaced, or something has that is no folder.
        OSError: it cannot be looked at.
    """
    try:
        mode = os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise StorageError(f"{file_kind(mode)} has the name of the folder", path, errno=errno.ENOTDIR)
    if not overwrite:
        hint = "choose another name, or replace it with overwrite=True"
        raise StorageError("a folder of this name exists", path, hint, errno=errno.EEXIST)


def publish(directory_fd: int, staged: str, name: str, path: str, *, overwrite: bool) -> None:
    """Gives a folder whose content is durable its final name, and makes that durable; then the old one goes.

    Args:
        directory_fd: the open directory.
        staged: the temporary name of the folder.
        name: the final one.
        path: of the folder, for messages.
        overwrite: replace a folder that has the name.

    Raises:
        StorageError, OSError: as `check_free`, or a system call failed; the folder has its temporary name
            and the old one its own. (Where the system can neither sync the new name nor take it back, the new
            folder stands, whole.) Whatever interrupts it passes through, after the same.
    """
    is_done = False
    while not is_done:
        check_free(directory_fd, name, path, overwrite=overwrite)
        old_fd = _lock_old(directory_fd, name, path)
        try:
            is_done = _take_name(directory_fd, staged, name, path, replaces=old_fd is not None)
        finally:
            if old_fd is not None:
                release(old_fd)


def _take_name(directory_fd: int, staged: str, name: str, path: str, *, replaces: bool) -> bool:
    """Does it once; returns False where another has taken the name meanwhile."""
    going = ""
    if replaces:
        going = _replace(directory_fd, staged, name)
    else:
        try:
            moving.rename(directory_fd, staged, directory_fd, name)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise
    try:
        sync_open_directory(directory_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            _put_back(directory_fd, staged, name, going)
        raise
    if going:
        _remove(directory_fd, going, path)
    return True


def _lock_old(directory_fd: int, name: str, path: str) -> int | None:
    """Locks the folder that has a name, so that no cleaner takes it under its next one; None: there is none.

    Raises:
        StorageError: another process keeps it locked.
    """
    deadline = time.monotonic() + _LONGEST_WAIT_S
    while True:
        try:
            fd = temporary.open_locked(directory_fd, name)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            if time.monotonic() > deadline:
                what = "another process replaces or removes the folder of this name"
                raise StorageError(what, path, errno=errno.EBUSY) from None
            time.sleep(_POLL_S)
            continue
        if _is_named(fd, directory_fd, name):
            return fd
        release(fd)  # another has got the name while this waited


def _is_named(fd: int, directory_fd: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(name, dir_fd=directory_fd, follow_symlinks=False), os.fstat(fd))
    return False


def _replace(directory_fd: int, staged: str, name: str) -> str:
    """Gives a folder the name of another; returns the name that the other then has."""
    try:
        exchange(directory_fd, staged, name)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
    else:
        return staged
    # No temporary name, under which a sweep would remove it if this process died before the second rename.
    aside = f".{name}{_ASIDE}"
    os.rename(name, aside, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    try:
        os.rename(staged, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.rename(aside, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        raise
    return aside


def _put_back(directory_fd: int, staged: str, name: str, going: str) -> None:
    if going == staged:
        exchange(directory_fd, staged, name)
        return
    os.rename(name, staged, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    if going:
        os.rename(going, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)


def _remove(directory_fd: int, going: str, path: str) -> None:
    """Removes the old folder; the new one is durable, and no failure to do so changes that."""
    try:
        if not temporary.is_temporary(going):
            name = temporary.temporary_name(going)
            os.rename(going, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
            going = name
        trees.remove_folder(directory_fd, going)
    except OSError as error:
        _logger.warning("Could not remove what %s has replaced: %s", path, error.strerror or error)


def settle(directory: str) -> None:
    """Ends replacements that a kill interrupted between their two renames: the old folder gets its name back.

    Raises:
        StorageError: the directory cannot be read, or a folder not be renamed.
    """
    with doing("cannot clear up", directory):
        asides = [name for name in os.listdir(directory) if name.startswith(".") and name.endswith(_ASIDE)]
        if not asides:
            return
        with closing(os.open(directory, descent.DIRECTORY)) as directory_fd:
            for aside in asides:
                # Else its process lives, or has just ended it.
                with contextlib.suppress(FileNotFoundError, BlockingIOError):
                    _settle(directory_fd, aside, aside[1 : -len(_ASIDE)], directory)


def _settle(directory_fd: int, aside: str, name: str, directory: str) -> None:
    with closing(temporary.open_locked(directory_fd, aside)):
        try:
            moving.rename(directory_fd, aside, directory_fd, name)
        except FileExistsError:
            _remove(directory_fd, aside, os.path.join(directory, name))
        else:
            sync_open_directory(directory_fd)
