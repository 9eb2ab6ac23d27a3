"""Going about a directory tree by open directories, without following a symbolic link."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from marlin_ckpt.errors import StorageError
from marlin_ckpt.storage.local.files import (
    NO_DIRECTORY,
    close_quietly,
    closing,
    doing,
    sync_open_directory,
)

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DirectoryIdentity = tuple[int, int]
Like = Callable[[str], os.stat_result]
# What fchmod(2) says where a file system keeps no modes: all its files have those of the mount.
_NO_MODES = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def open_top(text: str, *, follows: bool) -> int:
    """Opens the directory that a person named.

    Args:
        text: without a slash at its end, with which a link would be followed whatever O_NOFOLLOW says.
        follows: a link to a directory will do.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link that is not followed.
    """
    with doing("cannot read the directory", text, missing=NO_DIRECTORY):
        try:
            top = os.open(text, DIRECTORY & ~os.O_NOFOLLOW if follows else DIRECTORY)
            try:
                if os.fstat(top).st_nlink:
                    return top
                # The working directory, say, which has been removed.
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
            except OSError:
                close_quietly(top)
                raise
        except OSError as error:
            if follows or error.errno not in (errno.ELOOP, errno.ENOTDIR) or not os.path.islink(text):
                raise
            hint = f"name the directory that it points to: {os.path.realpath(text)}"
            what = "refused: removing through a symbolic link"
            raise StorageError(what, text, hint, errno=errno.ELOOP) from error


def directory_identity(status: os.stat_result) -> DirectoryIdentity:
    """What tells a directory from another of its name: device and inode."""
    return (status.st_dev, status.st_ino)


def _make(above: int, name: str, model: os.stat_result | None) -> None:
    """Makes a folder, at no time open to anybody to whom its model is not."""
    if model is None:
        os.mkdir(name, dir_fd=above)
        return
    os.mkdir(name, stat.S_IRWXU, dir_fd=above)
    with closing(os.open(name, DIRECTORY, dir_fd=above)) as fd:
        take_access(fd, model)


class Descent:
    """A place in a directory tree, reached from the top by names alone.

    It holds one descriptor beside the top's however deep it is, and a step to a parent or child costs the
    same everywhere, so that a walk takes time in proportion to the tree. It goes up by "..", which is no
    link, and only to the very directory that it came from; else it begins anew at the top.

    Attributes:
        fd: the directory where it is, open until it goes elsewhere.
        here: that directory's device and inode.
    """

    def __init__(self, top: int) -> None:
        """Begins at the top, an open directory, which the caller closes last."""
        self.fd = self._top = top
        self.here = self._top_identity = directory_identity(os.fstat(top))
        self._way: list[DirectoryIdentity] = []  # of those above, the top first
        self._folder = ""

    def go(self, folder: str, *, makes: bool = False, like: Like | None = None) -> int:
        """Goes to a folder.

        Args:
            folder: the names that lead to it, with "/" between them; "" is the top.
            makes: what is missing on the way is made, and durable.
            like: gives the folder that one which is made, by its name, takes owner and mode from.

        Returns:
            the directory's descriptor.

        Raises:
            OSError: it cannot be opened, or a link is on the way.
        """
        if folder != self._folder:
            while self._folder and not f"{folder}/".startswith(f"{self._folder}/"):
                self._up()
            below = folder[len(self._folder) + bool(self._folder) :]
            for name in below.split("/") if below else ():
                self._down(name, makes=makes, like=like)
        return self.fd

    def restart(self) -> None:
        """Goes to the top, and closes all else."""
        self._switch_to(self._top)
        self.here = self._top_identity
        self._way.clear()
        self._folder = ""

    def _down(self, name: str, *, makes: bool, like: Like | None) -> None:
        if name in ("", ".", ".."):
            raise OSError(errno.EINVAL, "not a name in a store", name)
        try:
            below = os.open(name, DIRECTORY, dir_fd=self.fd)
        except FileNotFoundError:
            if not makes:
                raise
            with contextlib.suppress(FileExistsError):  # another process made it meanwhile
                _make(self.fd, name, like and like(os.path.join(self._folder, name)))
            sync_open_directory(self.fd)
            below = os.open(name, DIRECTORY, dir_fd=self.fd)
        self._way.append(self.here)
        self._folder = os.path.join(self._folder, name)
        self._switch_to(below)
        self.here = directory_identity(os.fstat(below))

    def _up(self) -> None:
        expected = self._way.pop()
        self._folder = self._folder.rpartition("/")[0]
        try:
            above = os.open("..", DIRECTORY, dir_fd=self.fd) if self._folder else self._top
        except OSError:  # it has been removed, say
            self.restart()
            return
        self._switch_to(above)
        self.here = directory_identity(os.fstat(above))
        if self.here != expected:  # it has been moved elsewhere
            self.restart()

    def _switch_to(self, fd: int) -> None:
        before, self.fd = self.fd, fd
        if before != self._top:
            close_quietly(before)


def take_access(fd: int, model: os.stat_result) -> None:
    """Gives a new file or directory the owner, group and mode of another one, as far as this process may.

    Where the group cannot be given, its group and all others may do what both could, and nothing more. A file
    never gets the bits that run it as another user.

    Args:
        fd: what was made, open to its owner alone so far.
        model: the status of the other one, of the same kind.

    Raises:
        OSError: its mode cannot be changed, on a file system that has modes.
    """
    bits = 0o7777 if stat.S_ISDIR(model.st_mode) else 0o777
    made, mode = os.fstat(fd), model.st_mode & bits
    if made.st_uid != model.st_uid:
        with contextlib.suppress(OSError):
            os.fchown(fd, model.st_uid, -1)
    if made.st_gid != model.st_gid:
        try:
            os.fchown(fd, -1, model.st_gid)
        except OSError:
            both = mode >> 3 & mode & stat.S_IRWXO
            mode = mode & ~(stat.S_ISGID | stat.S_IRWXG | stat.S_IRWXO) | both << 3 | both
    if made.st_mode & bits != mode:
        try:
            os.fchmod(fd, mode)
        except OSError as error:
            if error.errno not in _NO_MODES:
                raise
