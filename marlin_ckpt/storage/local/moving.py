"""Files that go from one open directory to another, over nothing."""

import contextlib
import errno
import os
import stat

from marlin_ckpt.storage.local import temporary

# What link(2) says where a file system has no hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def link(source: int, name: str, target: int, new: str) -> bool:
    """Gives a file a second name, which nothing has; returns whether the file system has hard links.

    Raises:
        OSError: EEXIST where something else has the name, or whatever else goes wrong.
    """
    try:
        os.link(name, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        there, here = (
            os.stat(one, dir_fd=fd, follow_symlinks=False) for one, fd in ((new, target), (name, source))
        )
        if not os.path.samestat(there, here):  # else an earlier try was interrupted here
            raise
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def drop(source: int, name: str, target: int, inode: tuple[int, ...]) -> bool:
    """Takes the old name from a file that has another in the target.

    It is renamed before it is removed, so that what has taken its place at the last moment can be put back.

    Returns:
        whether it was the file of this device and inode that had the name.

    Raises:
        OSError: it cannot be renamed, or what had taken its place not be put back.
    """
    going = temporary.temporary_name(name)
    os.rename(name, going, src_dir_fd=source, dst_dir_fd=target)
    moved = os.stat(going, dir_fd=target, follow_symlinks=False)
    if (moved.st_dev, moved.st_ino) == inode:
        with contextlib.suppress(OSError):  # the next sweep removes it
            os.unlink(going, dir_fd=target)
        return True
    if stat.S_ISDIR(moved.st_mode):
        rename(target, going, source, name)
        return False
    with contextlib.suppress(FileExistsError):  # a still newer one has the name
        os.link(going, name, src_dir_fd=target, dst_dir_fd=source, follow_symlinks=False)
    os.unlink(going, dir_fd=target)
    return False


def rename(source: int, name: str, target: int, new: str) -> None:
    """Renames what cannot have two names.

    Raises:
        OSError: EEXIST where something has the new name, or whatever else goes wrong.
    """
    with contextlib.suppress(FileNotFoundError):
        os.stat(new, dir_fd=target, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
