"""Keeps `clean` from the parts of another tool's checkpoint, and says what it leaves alone."""

import os

from marlin_ckpt.directory import catalog
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats import layouts
from marlin_ckpt.storage.paths import open_store


def folders_in(directory: str, *, prefix: str | None = None, recursive: bool = False) -> list[Entry]:
    """The folders in a directory that are a checkpoint of another tool.

    Args:
        directory: that is looked through.
        prefix: only of this prefix; None: of all.
        recursive: in its sub-directories too.

    Raises:
        MarlinError: the directory itself is such a checkpoint, and has none in it.
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    with open_store(directory) as store:
        found = [one for level in catalog.readable(store, recursive=recursive) for one in level.checkpoints]
    foreign = sorted(filter(layouts.is_foreign, found), key=catalog.order)
    inside = [one for one in foreign if prefix in (None, one.name and one.name.prefix)]
    itself = catalog.entry(directory)
    if itself is None or not layouts.is_foreign(itself) or inside:
        return inside
    with open_store(itself.place or os.curdir) as store:
        marks = layouts.known_by(store, itself)
    layout = layouts.named(itself.layout)
    above = os.path.dirname(itself.path) or os.curdir
    hint = f"`marlin-ckpt clean {above} --keep-last 2` removes whole checkpoints, `rm -r` this one"
    what = f"refused: the directory is {layout.content}, by its {' and '.join(marks)}"
    raise MarlinError(f"{what}; a part of it would be of no use", directory, hint)
