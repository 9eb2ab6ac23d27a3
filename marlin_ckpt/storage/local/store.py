"""A local directory as a store: opened once, and everything in it reached from there without a link."""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator

from marlin_ckpt.entries import Identity, Item
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError, Translating
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.local import descent, moving, temporary, trees
from marlin_ckpt.storage.local.descent import Descent, DirectoryIdentity
from marlin_ckpt.storage.local.files import FileSource, closing, doing, open_regular, sync_open_directory
from marlin_ckpt.storage.local.mounts import free_bytes
from marlin_ckpt.storage.store import Listing
from marlin_ckpt.storage.target import Fill


class LocalStore:
    """A directory as a `Store`; `open_store` makes one.

    The identity of an object is the device and inode of its folder and of itself, and the time of its last
    change: a freed inode number is used again at once. Not the time at which its inode changed, which
    removing another of its names moves.
    """

    has_append = True

    def __init__(self, place: str, top: int) -> None:
        self.place = place
        self._top = top
        # Two places, so that moving many objects from folder to folder goes back and forth in neither.
        self._at, self._target = Descent(top), Descent(top)
        self._opening = threading.Lock()  # pieces of a tensor are read from several files at once

    def close(self) -> None:
        """Closes what is open but for the directory itself."""
        self._at.restart()
        self._target.restart()

    def list(self, folder: str = "") -> Listing:
        """The names in a folder; see `Store.list`."""
        objects: list[str] = []
        folders: list[str] = []
        links: list[str] = []
        with self._doing("cannot read the directory", folder), os.scandir(self._at.go(folder)) as found:
            for one in found:  # there may be 100,000: what can be asked of all together is asked below
                if one.is_symlink():
                    links.append(one.name)
                elif one.is_dir():
                    folders.append(one.name)
                    continue
                objects.append(one.name)
        return Listing(*(_named(names, folder) for names in (objects, folders, links)))

    def head(self, name: str) -> Item | None:
        """Looks at one file or folder; see `Store.head`."""
        try:
            with self._reaching("cannot look at", name) as (folder, last):
                return self._look(folder, name, last)
        except CheckpointNotFoundError:
            return None

    def _look(self, fd: int, name: str, last: str) -> Item | None:
        status = os.stat(last, dir_fd=fd, follow_symlinks=False)
        is_link = stat.S_ISLNK(status.st_mode)
        if is_link:
            try:
                status = os.stat(last, dir_fd=fd)
            except OSError:  # it leads nowhere
                return None
        return item_of(name, status, self._at.here, is_link=is_link)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[FileSource]:
        """Opens a file for reading; see `Store.open`."""
        with self._opening, self._reaching("cannot read", name) as (folder, last):
            fd = open_regular(last, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        with closing(fd), contextlib.closing(FileSource(fd, self._path(name))) as source:
            yield source

    def publish(self, name: str, size_bytes: int, fill: Fill, *, replaces: Identity | None = None) -> Item:
        """Writes a file whole and durable, or not at all; see `Store.publish`.

        What has the name is looked at once the new content is durable, right before it is renamed. Between
        these two another writer could come, which is what the lease of a directory is for.
        """
        from marlin_ckpt.storage.local import publishing  # noqa: PLC0415 - commands that only read go without

        def check() -> None:
            found = self.head(name)
            if replaces != (None if found is None else found.identity):
                raise _another(self._path(name))

        self._at.restart()  # the folder that has the name now is the one to write to
        with self._reaching("cannot write", name, makes=True) as (folder, last):
            try:
                # Whatever the folder's own name leads to meanwhile.
                publishing.publish(f"/proc/self/fd/{folder}/{last}", fill, size_bytes, before_renaming=check)
            except StorageError as error:
                error.where = self._path(name)
                raise
            found = self._look(folder, name, last)
        if found is None:
            raise _another(self._path(name))
        return found

    def move(self, name: str, to: str, identity: Identity) -> None:
        """Renames a file or folder over nothing; see `Store.move`.

        A folder that is made has the owner and mode of the one that held as much of what is moved before. A
        file has both names until the new one is durable.
        """
        folder, (new_folder, new) = _split(name)[0], _split(to)

        def like(made: str) -> os.stat_result:
            below = new_folder.count("/") - made.count("/")
            parts = folder.split("/") if folder else []
            at = Descent(self._top)
            try:
                return os.fstat(at.go("/".join(parts[: max(0, len(parts) - below)])))
            finally:
                at.restart()

        with self._reaching("cannot move", name) as (source, last):
            found = self._unchanged(source, name, last, identity)
            target = self._target.go(new_folder, makes=True, like=like)
            if not found.is_folder and moving.link(source, last, target, new):
                sync_open_directory(target)
                self._unchanged(source, name, last, identity)  # that took a while; a save may have come
                if not moving.drop(source, last, target, found.inode):
                    raise _another(self._path(name))
            else:
                moving.rename(source, last, target, new)
                sync_open_directory(target)
            sync_open_directory(source)

    def remove(self, name: str, identity: Identity) -> None:
        """Removes a file or folder if it is unchanged; see `Store.remove`.

        A folder gets the name of a temporary one first: a kill leaves it whole, or as something that a dead
        run has left, which the next sweep removes.
        """
        with self._reaching("cannot remove", name) as (folder, last), contextlib.ExitStack() as stack:
            found = self._unchanged(folder, name, last, identity)
            if temporary.is_temporary(last) and not stack.enter_context(temporary.claim(folder, last)):
                raise OSError(errno.EBUSY, "a live run writes it", name)
            if found.is_folder:
                trees.remove_folder(folder, last)
            else:
                os.unlink(last, dir_fd=folder)

    def _unchanged(self, fd: int, name: str, last: str, identity: Identity) -> Item:
        found = self._look(fd, name, last)
        if found is None or found.is_link or found.identity != identity:
            raise _another(self._path(name))
        return found

    def remove_empty(self, folder: str) -> None:
        """Removes a folder and those in it as far as they are empty; see `Store.remove_empty`."""
        trees.remove_empty(self._at, folder)

    def free_space(self) -> int | None:
        """What an unprivileged process may still write; see `Store.free_space`."""
        return free_bytes(self._top)

    def unfinished(self, folder: str = "") -> tuple[str, ...]:
        """The names of temporary files and folders; see `Store.unfinished`."""
        with self._doing("cannot read the directory", folder), os.scandir(self._at.go(folder)) as found:
            return tuple(
                os.path.join(folder, one.name)
                for one in found
                if temporary.is_temporary(one.name)
                and (one.is_file(follow_symlinks=False) or one.is_dir(follow_symlinks=False))
            )

    def is_unfinished(self, name: str) -> bool:
        """Whether it is the name of a temporary file; see `Store.is_unfinished`."""
        return temporary.is_temporary(os.path.basename(name))

    def is_abandoned(self, name: str) -> bool:
        """Whether the run that wrote a temporary file is dead; see `Store.is_abandoned`."""
        with self._reaching("cannot look at", name) as (folder, last):
            return temporary.is_abandoned(folder, last)

    def append(self, name: str, data: bytes) -> None:
        """Adds to the end of a file; see `Store.append`."""
        from marlin_ckpt.storage.local.system_calls import write_all  # noqa: PLC0415 - as above

        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with self._reaching("cannot write", name, makes=True) as (folder, last):
            fd = open_regular(last, flags, dir_fd=folder)
            try:
                write_all(fd, memoryview(data))
            finally:
                os.close(fd)

    def _path(self, name: str) -> str:
        return os.path.join(self.place, name) if name else self.place

    @contextlib.contextmanager
    def _reaching(self, action: str, name: str, *, makes: bool = False) -> Iterator[tuple[int, str]]:
        """Goes to the folder of an object; yields its descriptor, and the object's name in it."""
        folder, last = _split(name)
        with self._doing(action, name):
            yield self._at.go(folder, makes=makes), last

    def _doing(self, action: str, name: str) -> Translating:
        return doing(action, self._path(name), missing="no such file or directory", is_named=False)


@contextlib.contextmanager
def open_store(directory: PathText, *, follows: bool = True) -> Iterator[LocalStore]:
    """Opens a directory as a store for as long as the context lasts.

    Args:
        directory: that a person named.
        follows: it may be a link to one; where something is to be removed, none is.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a link that is not followed.
    """
    # Shells complete the name of a link with a slash, which would have it followed.
    text = os.fspath(directory)
    place = text.rstrip("/") or text[:1]  # "" is no directory, and never the root
    with closing(descent.open_top(place, follows=follows)) as top:
        with doing("cannot read the directory", place):
            store = LocalStore(place, top)
        with contextlib.closing(store):
            yield store


def item_of(name: str, status: os.stat_result, above: DirectoryIdentity, *, is_link: bool) -> Item | None:
    """A regular file or directory as `LocalStore.head` describes it; None for anything else.

    Args:
        name: relative to the store.
        status: its own, or of what a link leads to.
        above: device and inode of the directory that it is in.
        is_link: whether a link has the name.
    """
    is_folder = not stat.S_ISREG(status.st_mode)
    if is_folder and not stat.S_ISDIR(status.st_mode):
        return None
    inode, modified_ns = (status.st_dev, status.st_ino), status.st_mtime_ns
    size_bytes = 0 if is_folder else status.st_size
    return Item(name, size_bytes, modified_ns, (*above, *inode, modified_ns), inode, is_folder, is_link)


def _named(names: Iterable[str], folder: str) -> tuple[str, ...]:
    """The full names of what lies in a folder and is not being written."""
    whole = [one for one in names if not (one.endswith(temporary.SUFFIX) and temporary.is_temporary(one))]
    return tuple([f"{folder}/{one}" for one in whole] if folder else whole)


def _split(name: str) -> tuple[str, str]:
    """The folder and the last part of a name.

    Raises:
        StorageError: it would lead out of the store.
    """
    folder, slash, last = name.rpartition("/")
    if last in ("", ".", "..") or (slash and f"/{folder}"[-1] == "/"):
        raise StorageError("not a name in a store", name, errno=errno.EINVAL)
    return folder, last


def _another(path: str) -> StorageError:
    return StorageError("another file has taken its place", path, errno=errno.ESTALE)
