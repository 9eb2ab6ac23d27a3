"""Atomic, durable publication of a file on a local file system.

The order is: write a temporary file in the target's directory, fsync it, rename it over the final name, fsync
the directory. After `publish` returned, the new file survives a power loss; whatever happens before, the old
one is whole. Not promised: what a disk does that acknowledges a flush and then forgets it.

The space of a large old file is given back while the program goes on; see `mounts`.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from marlin_ckpt.errors import StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.local import mounts, moving, temporary
from marlin_ckpt.storage.local.descent import take_access
from marlin_ckpt.storage.local.files import (
    absolute,
    close_quietly,
    closing,
    doing,
    open_regular,
    sync_open_directory,
)
from marlin_ckpt.storage.target import Fill
from marlin_ckpt.storage.threads import in_order

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a file.

    Attributes:
        size_bytes: its length.
        write_s: how long it took to hand the bytes to the system, in seconds.
        sync_s: how long it then took until the file was durable under its name, without `before_renaming`.
    """

    size_bytes: int
    write_s: float
    sync_s: float


def make_directory(directory: PathText) -> None:
    """Makes a directory and its parents where they are missing, and makes new ones durable.

    Raises:
        StorageError: the path is a file, or cannot be made.
    """
    with doing("cannot make the directory", os.fspath(directory)):
        for one in existing_and_missing(directory)[1]:
            with contextlib.suppress(FileExistsError):  # another process made it meanwhile
                os.mkdir(one)
            sync_directory(os.path.dirname(one))
        try:
            is_directory = stat.S_ISDIR(os.stat(directory).st_mode)
        except FileNotFoundError as error:
            if not os.path.islink(directory):
                raise
            what = "cannot make the directory: a symbolic link that leads nowhere has its name"
            raise StorageError(what, os.fspath(directory), errno=errno.ENOTDIR) from error
        if not is_directory:
            what = "cannot make the directory: a file is in the way"
            raise StorageError(what, os.fspath(directory), errno=errno.ENOTDIR)


def existing_and_missing(directory: PathText) -> tuple[str, list[str]]:
    """The nearest parent of a directory that exists, or itself, and what is missing below, top first.

    Raises:
        OSError: it cannot be found out.
    """
    existing, missing = absolute(directory), []
    while True:
        try:
            os.lstat(existing)
        except (FileNotFoundError, NotADirectoryError):
            missing.append(existing)
            existing = os.path.dirname(existing)
        else:
            return existing, missing[::-1]


def publish(  # noqa: PLR0913 - keywords
    path: PathText,
    fill: Fill,
    expected_bytes: int,
    *,
    image: memoryview | None = None,
    shared_bytes: int | None = None,
    before_renaming: Callable[[], None] = lambda: None,
    overwrite: bool = True,
) -> Published:
    """Writes a file under its final name, whole and durable, or not at all.

    Args:
        path: the final name; a file that has it is replaced in one instant.
        fill: is given the empty file, and puts its content into it.
        expected_bytes: how long the file will be, roughly.
        image: memory in which parts of the file lie at their place already; see `DirectPieces`.
        shared_bytes: how many of the bytes, roughly, will be shared with other files; see `open_writer`.
        before_renaming: called when the file's content is durable, and only its name is not yet there.
        overwrite: whether a file that has the name is replaced. Of several that take a new name without it,
            at the same time and on a file system that has hard links, one gets it.

    Raises:
        StorageError: the name is taken (EEXIST), or a system call failed; the old file stands and the
            temporary one is removed. (Where the system can neither sync the new name nor take it back, the
            new file stands, whole.) Whatever else the functions raise passes through, after the same tidying.
    """
    from marlin_ckpt.storage.local.writer import open_writer  # noqa: PLC0415 - `latest` starts without isal

    text = os.fspath(path)
    directory, name = os.path.split(absolute(text))

    def write(fd: int) -> int:
        with open_writer(fd, expected_bytes, image, shared_bytes=shared_bytes) as writer:
            fill(writer)
            return writer.finish()

    mounts.wait_until_given_back()  # a full disk or a quota may need what was replaced last
    with doing("cannot write", text), closing(os.open(directory, _DIRECTORY)) as directory_fd:
        try:
            return _publish_in(directory_fd, name, write, before_renaming, overwrite=overwrite)
        except FileExistsError as error:
            raise is_taken(text) from error


def is_taken(path: str) -> StorageError:
    """The error for a name that another file has and keeps."""
    hint = "choose another path, or save with overwrite=True"
    return StorageError("a file of this name exists", path, hint, errno=errno.EEXIST)


def _publish_in(
    directory_fd: int,
    name: str,
    write: Callable[[int], int],
    before_renaming: Callable[[], None],
    *,
    overwrite: bool,
) -> Published:
    began = time.perf_counter()
    replaced = _replaced(directory_fd, name)
    lock_fd, temporary_name = temporary.create(directory_fd, name, is_private=replaced is not None)
    litter = [temporary_name]
    old_fd = -1
    try:
        if replaced is not None:
            take_access(lock_fd, replaced)
        # The lock belongs to the open file, not to a descriptor: the first one holds it over the rename,
        # while the second is closed before it, since some file systems report a failed write only then.
        size_bytes, written = _fill(os.dup(lock_fd), write)
        durable = time.perf_counter()
        before_renaming()
        renaming = time.perf_counter()
        if overwrite:
            old_fd, kept = _keep(directory_fd, name, litter)
            os.rename(temporary_name, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
            litter.remove(temporary_name)
        else:
            kept = ""
            if not moving.link(directory_fd, temporary_name, directory_fd, name):
                moving.rename(directory_fd, temporary_name, directory_fd, name)
                litter.remove(temporary_name)
        try:
            sync_open_directory(directory_fd)
        except OSError:
            _put_back(directory_fd, name, kept)
            raise
        sync_s = time.perf_counter() - renaming + durable - written
        return Published(size_bytes, written - began, sync_s)
    finally:
        for one in litter:
            with contextlib.suppress(OSError):
                os.unlink(one, dir_fd=directory_fd)
        close_quietly(lock_fd)
        if old_fd >= 0:
            mounts.give_back(old_fd)


def _replaced(directory_fd: int, name: str) -> os.stat_result | None:
    """The regular file that has a name now; None where there is none."""
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            return found
    return None


def _fill(fd: int, write: Callable[[int], int]) -> tuple[int, float]:
    """Writes, syncs and closes; the first error is the one that is raised.

    Returns:
        the file's length, and when it was written, before the fsync.
    """
    try:
        size_bytes = write(fd)
        written = time.perf_counter()
        # A failed fsync may have dropped the pages, and a second one may then report success (seen on xfs):
        # the error ends this file's life.
        os.fsync(fd)
    except BaseException:
        close_quietly(fd)
        raise
    os.close(fd)
    return size_bytes, written


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


def sync_directory(directory: str) -> None:
    """Makes the names in a directory durable, to which a link may lead.

    Raises:
        OSError: a system call failed.
    """
    fd = os.open(directory, _DIRECTORY)
    try:
        sync_open_directory(fd)
    finally:
        os.close(fd)  # not quietly: some file systems report a failed write only then


def make_durable(path: str) -> None:
    """Waits until a file that others may have written is on the disk, and its name is.

    Args:
        path: of the file, or of a folder, with all that is in it at any depth.

    Raises:
        StorageError: a system call failed.
    """
    with doing("cannot make durable", path):
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        files, directories = _tree(path) if is_folder else ([path], [])
    for _ in in_order(_sync_file, files):
        pass
    with doing("cannot make durable", path):
        for directory in (*reversed(directories), os.path.dirname(path) or os.curdir):
            sync_directory(directory)


def _tree(top: str) -> tuple[list[str], list[str]]:
    """The regular files below a directory, and the directories with itself, each before those in it."""
    files, directories = [], [top]
    for directory in directories:  # which grows meanwhile
        with os.scandir(directory) as found:
            for one in found:
                if one.is_dir(follow_symlinks=False):
                    directories.append(one.path)
                elif one.is_file(follow_symlinks=False):
                    files.append(one.path)
    return files, directories


def _sync_file(path: str) -> None:
    with doing("cannot make durable", path), closing(open_regular(path)) as fd:
        os.fsync(fd)
