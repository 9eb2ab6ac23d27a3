"""Which folders of other tools must stay whatever the rules say, and which are not ours to judge."""

import itertools
import os
from collections.abc import Iterable

from marlin_ckpt.entries import Entry
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.layouts.beside import said_beside
from marlin_ckpt.storage.store import Store


def needed(store: Store, entries: Iterable[Entry]) -> dict[str, str]:
    """What the bookkeeping of other tools still needs, by the path, with the reason.

    That of a run goes by what the newest checkpoint of each layout says that says anything, since a save that
    did not finish says nothing, and by the files beside them.

    Args:
        store: that the checkpoints are in.
        entries: the checkpoints, each directory's in the order of their index.
    """
    why: dict[str, str] = {}
    folders = [one for one in entries if layouts.is_foreign(one)]
    for _, in_place in itertools.groupby(sorted(folders, key=_place), _place):
        found = {os.path.basename(one.item.name): one for one in in_place}
        for name, reason in _said(store, list(found.values())).items():
            if one := found.get(name):
                why[one.path] = reason
    return why


def _said(store: Store, folders: list[Entry]) -> dict[str, str]:
    """What is needed of the folders of one directory, by their names."""
    said: dict[str, str] = {}
    silent = {one.layout for one in folders}
    for one in reversed(folders):
        layout = layouts.named(one.layout)
        if one.layout in silent and (names := layout.needs(store, one)) is not None:
            silent.discard(one.layout)
            own = os.path.basename(one.item.name)
            said |= dict.fromkeys(sorted(names - {own}), f"{own} still needs it")
    files = said_beside(store, folders[0].item.name)
    return said | {name: f"{file} names it" for file, names in files.items() for name in names}


def _place(entry: Entry) -> str:
    return os.path.dirname(entry.item.name)


def holds_others(store: Store, entry: Entry) -> bool:
    """Whether a folder holds folders that are no part of it, such as the checkpoints of a run."""
    layout = layouts.of(entry)
    return layout is not None and layout.is_flat and bool(store.list(entry.item.name).folders)
