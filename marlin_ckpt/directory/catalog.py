"""What lies in a store: the only discovery."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from functools import partial

from marlin_ckpt import naming
from marlin_ckpt.directory.walk import Level, OnError, walk
from marlin_ckpt.entries import Entry, Item
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.layouts.layout import foreign_name
from marlin_ckpt.storage.local.descent import directory_identity
from marlin_ckpt.storage.local.files import doing
from marlin_ckpt.storage.local.store import item_of
from marlin_ckpt.storage.paths import is_folder, nearby, open_remote, open_store
from marlin_ckpt.storage.store import Store
from marlin_ckpt.urls import is_bucket, is_url

_PATH_MAX = 4096  # bytes of a path that open(2) takes, with the null byte at its end: linux/limits.h

_logger = get_logger(__name__)


def readable(store: Store, *, recursive: bool, on_error: OnError | None = None) -> Iterator[Level]:
    """Walks through what can be opened by its path afterwards; what cannot be read goes to the log.

    Raises:
        StorageError: an object store does not answer; nothing that it has is passed over for that.
    """

    def log(folder: str, error: OSError) -> None:
        if is_url(store.place):
            raise error
        path = os.path.join(store.place, folder)
        _logger.warning("cannot read the directory: %s: %s", error.strerror, path)

    for level in walk(store, recursive=recursive, on_error=on_error or log):
        if len(os.fsencode(os.path.join(store.place, level.folder))) < _PATH_MAX:
            yield level
        else:
            log(level.folder, OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)))


def find(
    directory: PathText,
    *,
    prefix: str | None = None,
    extension: str | tuple[str, ...] = "pt",
    recursive: bool = False,
    foreign: bool = False,
) -> list[Entry]:
    """The checkpoints and other regular files of some extension, in order of their index.

    Args:
        directory: where to look.
        prefix: only what fits the grammar with this prefix; None: all files of the extension, those
            that do not fit the grammar last.
        extension: of files, without its dot, or several of them; folders that are a checkpoint count
            whatever theirs is.
        recursive: look in sub-directories too.
        foreign: folders of other tools too, which no run of ours may take for its own, and the place in a
            run that names of their files say.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    with open_store(directory) as store:
        return find_in(store, prefix=prefix, extension=extension, recursive=recursive, foreign=foreign)


def find_in(  # noqa: PLR0913 - what is searched for, each by its name
    store: Store,
    *,
    prefix: str | None = None,
    extension: str | tuple[str, ...] = "pt",
    recursive: bool = False,
    foreign: bool = False,
    on_error: OnError | None = None,
) -> list[Entry]:
    """What `find` finds, in a store.

    Of sub-folders that cannot be read `on_error` is told, where it is given, in place of the log.
    """
    found: list[Entry] = []
    extensions = (extension,) if isinstance(extension, str) else extension
    for level in readable(store, recursive=recursive, on_error=on_error):
        folders = (one for one in level.checkpoints if foreign or not layouts.is_foreign(one))
        found += [one for one in folders if prefix in (None, one.name and one.name.prefix)]
        fitting: list[tuple[str, naming.FileName | None]] = []
        for path in level.objects:
            last = path.rpartition("/")[2]
            its = naming.extension_among(last, extensions)
            if its is None:
                continue
            name = naming.parse(last, prefix, its) if prefix else naming.parse_any(last, its)
            if foreign and name is None and prefix is None:
                read = foreign_name(last[: -len(its) - 1])
                name = read and read._replace(extension=its)
            if name or prefix is None:
                fitting.append((path, name))
        found += [Entry(store.place, item, name) for item, name in _regular_files(store, fitting) if item]
    return sorted(found, key=order)


def by_age(entries: Iterable[Entry]) -> list[Entry]:
    """Entries of one index in the order in which they were saved, the last one at the end.

    A file and a sharded checkpoint of one run go by the numbers of their saves, all else by the times of
    their last changes.
    """
    found = sorted(entries, key=lambda one: (one.modified_ns, one.item.name))
    if len(found) > 1 and any(one.layout == naming.SHARDED for one in found):
        from marlin_ckpt.formats.inspection import inspect  # noqa: PLC0415 - names alone go without

        manifests = [inspect(one).manifest for one in found]
        saves = {number: one for number, one in enumerate(manifests) if one is not None}
        if len(saves) == len(found) and len({one.run_id for one in saves.values()}) == 1:
            found = [found[number] for number in sorted(saves, key=lambda at: saves[at].save_number)]
    return found


def link_targets(store: Store, *, recursive: bool = False) -> dict[tuple[int, ...], str]:
    """Where symbolic links in a store lead: by the target's device and inode, the name of a link to it.

    Raises:
        StorageError: the store cannot be read.
    """
    if is_url(store.place):  # where there are none
        return {}
    links = [name for level in readable(store, recursive=recursive) for name in level.links]
    found = (item for name in sorted(links, reverse=True) if (item := _look(store, name)))
    return {item.inode: item.name for item in found}


def listed(
    directory: PathText,
    *,
    prefix: str | None = None,
    extension: str | tuple[str, ...] = "pt",
    recursive: bool = False,
) -> list[Entry]:
    """What a directory is, where it is itself one checkpoint, and what `find` finds in it, of whatever tool.

    The directory of a Trainer that has left its last weights there is both.

    Raises:
        CheckpointNotFoundError, StorageError: as `find` raises them.
    """
    itself = entry(directory)
    layout = itself and layouts.of(itself)
    if layout and not layout.is_flat:
        found = []
    else:
        found = find(directory, prefix=prefix, extension=extension, recursive=recursive, foreign=True)
    return [itself, *found] if itself and prefix in (None, itself.name and itself.name.prefix) else found


def named(paths: Iterable[str], extensions: Iterable[str], *, recursive: bool = False) -> list[Entry]:
    """The files that a command line names: each file itself, of each directory those of some extensions.

    A folder that is a checkpoint, of whatever tool, counts as a file does; see `listed`.

    Raises:
        CheckpointNotFoundError: there is no such file or directory.
        StorageError: a directory cannot be read, or a path is neither.
    """
    usual = tuple(extensions)

    def place(one: Entry) -> int:
        its = None if one.layout else naming.extension_among(one.item.name.rpartition("/")[2], usual)
        return 0 if its is None else usual.index(its)

    found: list[Entry] = []
    for path in paths:
        if is_folder(path):
            more = sorted(listed(path, extension=usual, recursive=recursive), key=place)
            found.extend(one for one in more if not one.layout or one not in found)
        elif one := entry(path):
            found.append(one)
        else:
            missing = "no such file or directory"
            if is_url(path):
                raise CheckpointNotFoundError("no such object, and none below", path, nearby(path))
            # No file has a name with a null byte in it: ValueError.
            with contextlib.suppress(ValueError), doing("cannot look at", path, missing):
                os.stat(path)
            raise StorageError("neither a regular file nor a directory", path)
    return found


def entry(path: PathText) -> Entry | None:
    """One checkpoint or other file as `find` would list it; None where there is none.

    A link to a folder, such as `best`, is followed: whoever names it means that folder.
    """
    text = os.fspath(path).rstrip("/")
    if is_url(text):
        return _object(text)
    try:
        is_link = os.path.islink(text) and os.path.isdir(text)
        if is_link or os.path.basename(text) in (os.curdir, os.pardir):
            text = os.path.realpath(text)
        place, last = os.path.split(text)
        status, above = os.stat(text), os.stat(place or os.curdir)
        item = item_of(last, status, directory_identity(above), is_link=os.path.islink(text))
        if item is not None and item.is_folder:
            with open_store(place or os.curdir) as store:
                found = layouts.recognise(store, last)
            return found and found._replace(place=place)
    except (OSError, ValueError):  # no file has a name with a null byte in it
        return None
    return item and Entry(place, item, naming.parse_any(last, naming.split_extension(last)[1]))


def _object(url: str) -> Entry | None:
    if is_bucket(url):
        return None
    place, last = os.path.split(url)
    with contextlib.suppress(CheckpointNotFoundError), open_remote(place) as store:
        if (item := store.head_object(last)) is None:
            return layouts.recognise(store, last)
        return Entry(store.place, item, naming.parse_any(last, naming.split_extension(last)[1]))
    return None


def _look(store: Store, name: str) -> Item | None:
    try:
        return store.head(name)
    except StorageError:
        if is_url(store.place):  # it would pass for one that has no checkpoint
            raise
        return None  # what cannot be looked at is passed over


def _regular_files(
    store: Store, fitting: list[tuple[str, naming.FileName | None]]
) -> Iterator[tuple[Item | None, naming.FileName | None]]:
    """Looks at names, each with what it says; several at a time where the store is far away."""
    look = partial(regular_file, store)
    if not is_url(store.place):
        return ((look(path), name) for path, name in fitting)
    from marlin_ckpt.storage.threads import in_order  # noqa: PLC0415 - few directories are remote

    return zip(in_order(look, [path for path, _ in fitting]), [name for _, name in fitting], strict=True)


def regular_file(store: Store, name: str) -> Item | None:
    """Looks at a name in a store; None where it is no regular file, or cannot be looked at."""
    item = _look(store, name)
    return None if item is None or item.is_folder else item


def order(entry: Entry) -> tuple[bool, int, str, str]:
    """The key by which entries are sorted: by index, those without one last."""
    if entry.name is None:
        return (True, 0, "", entry.item.name)
    return (False, entry.name.index, entry.name.kind, entry.item.name)
