"""Folders that are one checkpoint as a whole: the layouts that are known, and how each reads its folders.

A layout is a module of its own with one value, registered here; discovery, retention, the trash, `verify`,
`list`, `show`, `diff` and `export` ask these values and know no layout by name.

- `layout`: the Protocol, and the names in a folder that a layout is recognised by.
- `folder`: files of any kind, listed with their checksums by a manifest of ours.
- `sharded`: what the ranks of a run of ours wrote together: shards, and a manifest that lists them.
- `accelerate`: states of Accelerate, by any name.
- `dcp`: torch's Distributed Checkpoint, shards with metadata.
- `deepspeed`: the files of DeepSpeed's ranks, of which few hold whole tensors.
- `hugging_face`: weights as `save_pretrained` writes them, in one file or in shards with an index.
- `peft`: adapters, as PEFT writes them.
- `trainer`: a `checkpoint-N` of the Trainer of Transformers.
- `parts`: what other tools' folders have in common: a `Makeup` says which file holds which state.
- `beside`: files beside the folders of a run that name the one which it goes on from.
- `hub`: the cache of the Hugging Face hub, whose snapshots are links to blobs.
- `digests`: compares the files of such a snapshot with the names of their blobs.
- `members`: opening the files of a folder, and never one outside of it.
- `assembly`: puts what the files hold together in one tree.
- `judgement`: what is said of such a folder, complete or not, damaged or not.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from marlin_ckpt import naming
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import StorageError
from marlin_ckpt.formats.layouts.folder import FolderLayout
from marlin_ckpt.formats.layouts.layout import Layout, Names
from marlin_ckpt.formats.layouts.sharded import ShardedLayout

if TYPE_CHECKING:
    from marlin_ckpt.entries import Item
    from marlin_ckpt.storage.store import Listing, Store

__all__ = [
    "Layout", "Names", "is_foreign", "known_by", "layout_of", "layouts", "named", "of", "recognise",
    "register",
]  # fmt: skip
_DEFINING = (".json", ".metadata"), (".index.json", "_state.json", ".metadata")  # ends of names

# Those of other tools, by their names: the module and the class, imported where a folder is not ours.
_OTHERS = {
    "trainer": ("trainer", "TrainerLayout"),
    "accelerate": ("accelerate", "AccelerateLayout"),
    "dcp": ("dcp.layout", "DcpLayout"),
    "dcp-hugging-face": ("dcp.hugging_face", "DcpHuggingFaceLayout"),
    "deepspeed": ("deepspeed", "DeepSpeedLayout"),
    "hugging-face": ("hugging_face", "HuggingFaceLayout"),
    "peft": ("peft", "PeftLayout"),
}
# The first that knows a folder counts: what holds weights among other things comes before the weights.
_known: dict[str, Layout | tuple[str, str]] = {
    **{one.name: one for one in (ShardedLayout(), FolderLayout())},
    **_OTHERS,
}


def register(layout: Layout) -> None:
    """Makes a layout known; a folder is of the first layout that knows it."""
    _known[layout.name] = layout


def layouts() -> tuple[Layout, ...]:
    """The layouts that are known, in the order in which they were registered."""
    return tuple(map(named, _known))


def named(name: str) -> Layout:
    """The layout of a name."""
    found = _known[name]
    if isinstance(found, tuple):
        module, kind = found
        _known[name] = found = getattr(import_module(f"{__name__}.{module}"), kind)()
    return found


def of(entry: Entry) -> Layout | None:
    """The layout of a checkpoint that is a folder; None for a file."""
    return named(entry.layout) if entry.layout else None


def is_foreign(entry: Entry) -> bool:
    """Whether an entry is a folder of another tool's."""
    layout = of(entry)
    return layout is not None and not layout.is_ours


def layout_of(store: Store, folder: str, listing: Listing) -> tuple[Layout, tuple[Item, ...]] | None:
    """The layout that knows a folder as one checkpoint, and the files that make it up.

    A directory of checkpoints of ours is never another tool's checkpoint, whatever else is in it.

    Args:
        store: that it is in.
        folder: its name; "" is the store itself.
        listing: of the folder.

    Raises:
        StorageError: it cannot be found out.
    """
    before = len(folder) + 1 if folder else 0
    names = Names(
        *(frozenset(one[before:] for one in each) if before else frozenset(each) for each in listing[:2])
    )
    has_ours = any(naming.parse_any(one, "pt") for one in names.files)
    for name in _known:
        if has_ours and name in _OTHERS:
            continue
        layout = named(name)
        if not layout.recognises(names):
            continue
        if not layout.is_ours and (has_ours or _has_own_folder(store, folder, names)):
            continue
        found = (store.head(one) for one in layout.members(store, folder, names))
        if members := tuple(one for one in found if one):
            return layout, members
    return None


def known_by(store: Store, entry: Entry) -> tuple[str, ...]:
    """The names in a folder by which its layout knows it, no more than it needs; none of a file.

    Raises:
        StorageError: the folder cannot be read.
    """
    layout = of(entry)
    if layout is None:
        return ()
    listing = store.list(entry.item.name)
    left = Names(*(frozenset(map(os.path.basename, each)) for each in (listing.objects, listing.folders)))

    def says_much(name: str) -> int:
        return sum(name.endswith(ends) for ends in _DEFINING)

    for name in sorted(left.files | left.folders, key=lambda one: (says_much(one), one)):
        fewer = Names(left.files - {name}, left.folders - {name})
        if layout.recognises(fewer):
            left = fewer
    return tuple(sorted(left.files | left.folders))


def _has_own_folder(store: Store, folder: str, names: Names) -> bool:
    """Whether runs of ours have saved in a folder; a history and statistics alone are no proof."""
    if naming.OWN_DIRECTORY not in names.folders:
        return False
    try:
        own = store.list(os.path.join(folder, naming.OWN_DIRECTORY))
    except StorageError:  # a link, say, which is none of ours to follow, but in our place
        return True
    return bool(own.folders) or not all(map(naming.is_beside_any, map(os.path.basename, own.objects)))


def recognise(store: Store, folder: str, listing: Listing | None = None) -> Entry | None:
    """A folder in a store as one checkpoint, by the layout that knows it.

    Args:
        store: that it is in.
        folder: its name.
        listing: of the folder, where it was read.

    Raises:
        StorageError: it cannot be found out.
    """
    known = layout_of(store, folder, store.list(folder) if listing is None else listing)
    found = store.head(folder) if known else None
    if known is None or found is None:
        return None
    layout, members = known
    whole = found._replace(size_bytes=sum(item.size_bytes for item in members))
    return Entry(store.place, whole, layout.read_name(os.path.basename(folder)), layout.name, members)
