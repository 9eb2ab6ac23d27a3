"""Goes through a store folder by folder, and knows the folders that are one checkpoint as a whole."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from marlin_ckpt import naming
from marlin_ckpt.entries import Entry
from marlin_ckpt.formats import layouts
from marlin_ckpt.storage.store import Store

OnError = Callable[[str, OSError], None]  # told the name of a folder or object, and what is wrong with it


class Level(NamedTuple):
    """What lies directly in one folder.

    Attributes:
        folder: its name; "" is the store itself.
        objects: the names of what is no folder.
        links: the names of those that are symbolic links.
        checkpoints: the folders that are one checkpoint each.
    """

    folder: str
    objects: tuple[str, ...]
    links: tuple[str, ...]
    checkpoints: tuple[Entry, ...]


def walk(store: Store, start: str = "", *, recursive: bool, on_error: OnError) -> Iterator[Level]:
    """Goes through a store, folder by folder.

    A folder that is itself a checkpoint is not entered, nor is the trash; in a store that is one as a whole,
    nothing is found.

    Args:
        store: that is looked through.
        start: the folder to begin with.
        recursive: go into sub-folders.
        on_error: told of each sub-folder that cannot be read.

    Raises:
        CheckpointNotFoundError: there is no such folder.
        StorageError: the first folder cannot be read.
    """
    if not start and store.head(naming.MANIFEST) is not None:  # the directory itself is a checkpoint
        yield Level(start, (), (), ())
        return
    pending = [start]
    while pending:
        folder = pending.pop()
        try:
            listing = store.list(folder)
        except OSError as error:
            if folder == start:
                raise
            if not isinstance(error, FileNotFoundError):  # else it has gone since its parent was read
                on_error(folder, error)
            continue
        checkpoints, others = _sorted_out(store, listing.folders, on_error if recursive else None)
        if recursive:
            pending.extend(name for name in others if os.path.basename(name) != naming.TRASH)
        yield Level(folder, listing.objects, listing.links, checkpoints)


def _sorted_out(
    store: Store, folders: Iterable[str], on_error: OnError | None
) -> tuple[tuple[Entry, ...], list[str]]:
    """The folders that are one checkpoint each, and the others; neither has those that cannot be read."""
    checkpoints, others = [], []
    for name in folders:
        try:
            found = as_checkpoint(store, name)
        except OSError as error:
            if on_error and not isinstance(error, FileNotFoundError):  # else it has gone meanwhile
                on_error(name, error)
            continue
        if found:
            checkpoints.append(found)
        else:
            others.append(name)
    return tuple(checkpoints), others


def as_checkpoint(store: Store, folder: str) -> Entry | None:
    """A folder as one checkpoint, by the layout that knows it.

    Raises:
        StorageError: it cannot be found out.
    """
    for layout in layouts.layouts():
        members = [item for one in layout.members(store, folder) if (item := store.head(one))]
        found = store.head(folder) if members else None
        if found is not None:
            name = layout.read_name(os.path.basename(folder))
            whole = found._replace(size_bytes=sum(item.size_bytes for item in members))
            return Entry(store.place, whole, name, layout.name, tuple(members))
    return None
