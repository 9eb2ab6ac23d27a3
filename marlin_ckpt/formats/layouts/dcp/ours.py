"""What is wrong in a folder of our own shards: which are of another save, which of their items are lost."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from marlin_ckpt.errors import BadFileError, CheckpointNotFoundError
from marlin_ckpt.formats.layouts.dcp import checking
from marlin_ckpt.formats.layouts.dcp.faults import faults_in, short_names
from marlin_ckpt.formats.layouts.dcp.saved import METADATA, SHARD, Item, Saved, read_saved
from marlin_ckpt.formats.layouts.parts import listed
from marlin_ckpt.formats.shards.reader import read_shard

if TYPE_CHECKING:
    from marlin_ckpt.formats.layouts.folder import ListedFile
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.manifest import Sharded
    from marlin_ckpt.formats.shards.trailer import Shard


class OurFaults(NamedTuple):
    """What is wrong.

    Attributes:
        wrong: one sentence each.
        names: the flat names of what is damaged.
    """

    wrong: list[str]
    names: tuple[str, ...]


def faults(
    folder: Folder, saved: Saved | None, sharded: Sharded, files: Sequence[ListedFile], bad: Collection[str]
) -> OurFaults:
    """Compares what the files of a folder say of each other, and looks for what is lost in damaged ones.

    Args:
        folder: the checkpoint, of which all files are there in their lengths.
        saved: what `.metadata` says; None where that is damaged.
        sharded: what the manifest says.
        files: that it lists.
        bad: the names of those whose CRC32 does not hold.

    Raises:
        StorageError: a file cannot be read.
    """
    wrong = [f"the CRC of {one} does not hold" for one in bad if not one.endswith(SHARD)]
    names: list[str] = []
    items = {} if saved is None else saved.files()
    for one in files:
        if one.name.endswith(SHARD):
            said, lost = _look_at(folder, one.name, items.get(one.name), saved, sharded, one.name in bad)
            wrong += [f"{one.name} {what}" for what in said]
            names += lost
    if saved is not None:
        own = faults_in(saved, folder.items)
        wrong += [*own.missing, *own.wrong]
        names += own.names
    return OurFaults(wrong, tuple(dict.fromkeys(names)))


def lost(folder: Folder, files: Sequence[ListedFile]) -> tuple[str, ...]:
    """The names of what is in files that are missing or of another length, as far as `.metadata` says it."""
    there = {name: one.size_bytes for name, one in folder.items.items()}
    odd = {one.name for one in files if there.get(one.name) != one.size}
    with contextlib.suppress(BadFileError, CheckpointNotFoundError, IndexError):
        if METADATA in odd:
            return ()
        found = read_saved(folder).files()
        return tuple(dict.fromkeys(name for file in sorted(odd) for name in short_names(found.get(file, []))))
    return ()


def _look_at(  # noqa: PLR0913, PLR0917 - all that is known of a shard
    folder: Folder,
    name: str,
    items: list[Item] | None,
    saved: Saved | None,
    sharded: Sharded,
    is_bad: bool,
) -> tuple[list[str], list[str]]:
    """What is wrong with a shard, and the names of what is lost in it."""
    shard: Shard | None = None
    why = "was not written by marlin-ckpt"
    try:
        with folder.open(name) as source:
            shard = read_shard(source)
    except BadFileError as error:
        why = error.what
    if shard is not None and shard.about.save_id != sharded.save_id:
        said = f"is of another save, {shard.about.save_id}: shards of two saves are mixed"
        return [said], short_names(items or [])
    if is_bad:
        return _damage(folder, name, saved)
    if shard is None:
        return [f"does not say which save it is of: {why}"], []
    if saved is None:
        return [], []
    if not items:
        return [f"holds nothing that {METADATA} names"], []
    odd = [one for one in items if not _has(shard, one)]
    return [f"has not {listed(short_names(odd))} where {METADATA} says"] if odd else [], short_names(odd)


def _has(shard: Shard, item: Item) -> bool:
    found = shard.items.get(item.place.start)
    end = item.place.start + item.place.size_bytes
    return found is not None and found.data_start + found.data_bytes <= end


def _damage(folder: Folder, name: str, saved: Saved | None) -> tuple[list[str], list[str]]:
    what = "is damaged: its CRC does not hold"
    if saved is None:
        return [what], []
    others = {one for one in saved.items if one.place.file != name}
    checked = checking.check(folder, saved, others, lambda _: None)
    if not checked.names:
        return [f"{what}, though those of all that it holds do"], []
    return [f"{what}, in {listed(checked.names)}"], checked.names
