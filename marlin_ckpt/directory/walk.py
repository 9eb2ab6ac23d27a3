"""Goes through a store folder by folder, and knows the folders that are one checkpoint as a whole."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from marlin_ckpt import naming
from marlin_ckpt.entries import Entry
from marlin_ckpt.formats import layouts
from marlin_ckpt.storage.store import Listing, Store

_PASSED_OVER = (naming.TRASH, naming.OWN_DIRECTORY)
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

    A folder that is itself a checkpoint is not entered unless folders in it are no part of it, nor are the
    trash and our own bookkeeping; of a folder that is one as a whole, no file is found.

    Args:
        store: that is looked through.
        start: the folder to begin with.
        recursive: go into sub-folders.
        on_error: told of each sub-folder that cannot be read.

    Raises:
        CheckpointNotFoundError: there is no such folder.
        StorageError: the first folder cannot be read.
    """
    pending: list[tuple[str, Listing | None]] = [(start, None)]
    flat = {start}  # folders that may hold others beside what makes them one checkpoint
    while pending:
        folder, listing = pending.pop()
        try:
            listing = store.list(folder) if listing is None else listing
            known = layouts.layout_of(store, folder, listing) if folder in flat else None
        except OSError as error:
            if folder == start:
                raise
            if not isinstance(error, FileNotFoundError):  # else it has gone since its parent was read
                on_error(folder, error)
            continue
        if known and (start or not known[0].is_flat):
            yield Level(folder, (), (), ())
            continue
        checkpoints, others = _sorted_out(store, listing.folders, on_error if recursive else None)
        within = [one.item.name for one in checkpoints if _is_flat(one)]
        if recursive:
            flat.update(within)
            pending += [*others, *((name, None) for name in within)]
        if known:  # its files are parts of it
            yield Level(folder, (), (), checkpoints)
        else:
            yield Level(folder, listing.objects, listing.links, checkpoints)


def _is_flat(entry: Entry) -> bool:
    layout = layouts.of(entry)
    return layout is not None and layout.is_flat


def _sorted_out(
    store: Store, folders: Iterable[str], on_error: OnError | None
) -> tuple[tuple[Entry, ...], list[tuple[str, Listing]]]:
    """The folders that are one checkpoint each, and the others, listed; neither has what cannot be read."""
    checkpoints, others = [], []
    for name in folders:
        if os.path.basename(name) in _PASSED_OVER:
            continue
        try:
            listing = store.list(name)
            found = layouts.recognise(store, name, listing)
        except OSError as error:
            if on_error and not isinstance(error, FileNotFoundError):  # else it has gone meanwhile
                on_error(name, error)
            continue
        if found:
            checkpoints.append(found)
        else:
            others.append((name, listing))
    return tuple(checkpoints), others
