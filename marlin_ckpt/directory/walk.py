"""Goes through a store folder by folder, and knows the folders that are one checkpoint as a whole."""

import os
from collections.abc import Callable, Iterator
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

    A folder that is itself a checkpoint is not entered, nor is the trash.

    Args:
        store: that is looked through.
        start: the folder to begin with.
        recursive: go into sub-folders.
        on_error: told of each sub-folder that cannot be read.

    Raises:
        CheckpointNotFoundError: there is no such folder.
        StorageError: the first folder cannot be read.
    """
    pending = [start]
    while pending:
        folder = pending.pop()
        try:
            listing = store.list(folder)
            checkpoints = {name: one for name in listing.folders if (one := as_checkpoint(store, name))}
        except OSError as error:
            if folder == start:
                raise
            if not isinstance(error, FileNotFoundError):  # else it has gone since its parent was read
                on_error(folder, error)
            continue
        if recursive:
            below = (name for name in listing.folders if name not in checkpoints)
            pending.extend(name for name in below if os.path.basename(name) != naming.TRASH)
        yield Level(folder, listing.objects, listing.links, tuple(checkpoints.values()))


def as_checkpoint(store: Store, folder: str) -> Entry | None:
    """A folder as one checkpoint, by the layout that knows it."""
    for layout in layouts.layouts():
        name = layout.fits(os.path.basename(folder))
        if name is None:
            continue
        files = [os.path.basename(one) for one in store.list(folder).objects]
        members = [item for one in layout.members(files) if (item := store.head(f"{folder}/{one}"))]
        found = store.head(folder)
        if members and found is not None:
            whole = found._replace(size_bytes=sum(item.size_bytes for item in members))
            return Entry(store.place, whole, name, layout.name, tuple(members))
    return None
