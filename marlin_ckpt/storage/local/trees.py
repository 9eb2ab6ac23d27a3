"""Whole directory trees of a store: removed with all in them, or as far as nothing is in them."""

import contextlib
import errno
import os
from collections.abc import Iterator

from marlin_ckpt.storage.local import descent, temporary
from marlin_ckpt.storage.local.descent import Descent
from marlin_ckpt.storage.local.files import closing, sync_open_directory


def remove_empty(at: Descent, folder: str) -> None:
    """Removes a folder and those in it as far as they are empty; what cannot be removed stays."""
    folders: list[str] = []
    with contextlib.suppress(OSError):  # one cannot be read: what is in it is not empty
        folders += (one for one, _ in _walk(at, folder))
    for one in reversed(folders):
        above, _, name = one.rpartition("/")
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=at.go(above))


def remove_folder(fd: int, name: str) -> None:
    """Removes a folder with all in it, under the name of a temporary one, locked as these are."""
    with contextlib.ExitStack() as stack:
        if not temporary.is_temporary(name):
            stack.enter_context(closing(temporary.open_locked(fd, name)))
            going = temporary.temporary_name(name)
            os.rename(name, going, src_dir_fd=fd, dst_dir_fd=fd)
            sync_open_directory(fd)
            name = going
        with closing(os.open(name, descent.DIRECTORY, dir_fd=fd)) as top:
            _clear(top)
        os.rmdir(name, dir_fd=fd)


def _clear(top: int) -> None:
    """Removes everything below an open directory but what is mounted there.

    Raises:
        OSError: something cannot be removed, or another file system is mounted in it (errno EXDEV).
    """
    at = Descent(top)
    device, _ = at.here
    folders = []
    try:
        for folder, names in _walk(at, ""):
            if at.here[0] != device:
                raise OSError(errno.EXDEV, "another file system is mounted in it", folder)
            folders.append(folder)
            for name in names:
                os.unlink(name, dir_fd=at.fd)
        for folder in reversed(folders[1:]):
            above, _, name = folder.rpartition("/")
            os.rmdir(name, dir_fd=at.go(above))
    finally:
        at.restart()


def _walk(at: Descent, start: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder before those in it, with the names of what is no folder; at each, `at` is there."""
    pending = [start]
    while pending:
        folder = pending.pop()
        others = []
        with os.scandir(at.go(folder)) as found:
            for one in found:
                if one.is_dir(follow_symlinks=False):
                    pending.append(os.path.join(folder, one.name))
                else:
                    others.append(one.name)
        yield folder, others
