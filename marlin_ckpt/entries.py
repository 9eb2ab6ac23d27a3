"""What a look at a store finds: names, sizes and identities, before any file is opened."""

import os
from typing import NamedTuple

from marlin_ckpt import naming

# What tells an object from another that takes its name: its store alone knows what is in it.
Identity = tuple[int | str, ...]


class Item(NamedTuple):
    """One object of a store, or one folder.

    Attributes:
        name: relative to the store, "/" between its parts.
        size_bytes: its length; of a folder that is a checkpoint, what its files have together, else 0.
        modified_ns: the time of its last change, in nanoseconds since 1970.
        identity: is the same until the object is replaced or changed.
        inode: device and inode of a local file, which all its names share; () elsewhere.
        is_folder: whether it is a folder.
        is_link: whether a symbolic link has the name, and all else is of what it leads to.
        about: what its writer has said of it beside it, where the store keeps that; see `Manifest.brief`.
    """

    name: str
    size_bytes: int
    modified_ns: int
    identity: Identity
    inode: tuple[int, ...] = ()
    is_folder: bool = False
    is_link: bool = False
    about: str = ""

    @property
    def same(self) -> Identity:
        """What all names of one object have in common: device and inode, or what its store knows it by."""
        return self.inode or self.identity


class Entry(NamedTuple):
    """A checkpoint, or another file of its extension, known by its name alone.

    Attributes:
        place: of the store, as it was given.
        item: the file, or the folder that is one checkpoint.
        name: the item's name read by the grammar, or None where it does not fit.
        layout: how a folder makes up the checkpoint; "" for a file.
        members: the files of the folder that belong to it; none for a file.
    """

    place: str
    item: Item
    name: naming.FileName | None
    layout: str = ""
    members: tuple[Item, ...] = ()

    @property
    def path(self) -> str:
        """Where it is: in its place, under its name there."""
        return os.path.join(self.place, self.item.name)

    @property
    def size_bytes(self) -> int:
        """Its length, of a folder that of its files together."""
        return self.item.size_bytes

    @property
    def modified_ns(self) -> int:
        """The time of its last change, in nanoseconds since 1970."""
        return self.item.modified_ns

    @property
    def index(self) -> int | None:  # type: ignore[override]  # as in `FileName`
        """The index in its name, or None."""
        return None if self.name is None else self.name.index
