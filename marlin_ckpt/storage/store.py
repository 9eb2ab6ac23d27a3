"""Where checkpoints are kept: a local directory, and whatever else can do the same.

A store holds objects under names: relative, with "/" between their parts, none of them empty, "." or "..".
A name that ends before another's "/" is a folder. Everything that writes or removes takes the identity of
what it expects there, so that nobody's newer object goes by mistake.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from marlin_ckpt.entries import Identity, Item
from marlin_ckpt.storage.source import Source
from marlin_ckpt.storage.target import Fill


class Listing(NamedTuple):
    """What lies directly in one folder, by full names and in no order; nothing of it was looked at.

    Attributes:
        objects: what is no folder. What is being written is not there yet.
        folders: those in it.
        links: those of the objects that are symbolic links.
    """

    objects: tuple[str, ...]
    folders: tuple[str, ...]
    links: tuple[str, ...] = ()


class Store(Protocol):
    """A place that keeps objects.

    All verbs raise StorageError where the store refuses or fails, with `errno` where there is one, and
    CheckpointNotFoundError where there is no such object or folder.

    Attributes:
        place: its name, for messages; with "/" and an object's name after it the path of that object.
        has_append: whether `append` can be called.
    """

    place: str
    has_append: bool

    def list(self, folder: str = "") -> Listing:
        """The names in a folder; "" is the store itself."""

    def head(self, name: str) -> Item | None:
        """Looks at one object or folder; None where there is none, or what cannot be read as either."""

    def open(self, name: str) -> AbstractContextManager[Source]:
        """Opens an object for reading; a symbolic link is refused."""

    def publish(self, name: str, size_bytes: int, fill: Fill, *, replaces: Identity | None = None) -> Item:
        """Writes an object whole and durable, or not at all; folders in its name are made.

        Args:
            name: of the object.
            size_bytes: how long it will be; there are stores that need it to the byte.
            fill: is given the empty object, and puts its content into it; what it raises passes through.
                Called again where the store has lost what it was given.
            replaces: the identity of the object that has the name now; None: there must be none.
        """

    def move(self, name: str, to: str, identity: Identity) -> None:
        """Gives an object, or a folder with all in it, another name, which nothing may have yet.

        A move that was interrupted between the two names is completed by the same call.
        """

    def remove(self, name: str, identity: Identity) -> None:
        """Removes an object if it is unchanged, or a folder with all in it, at once in the eyes of others."""

    def remove_empty(self, folder: str) -> None:
        """Removes a folder and those in it as far as they hold no object; what cannot be removed stays."""

    def free_space(self) -> int | None:
        """How many bytes may still be written; None where the store does not tell."""

    def unfinished(self, folder: str = "") -> tuple[str, ...]:
        """The names of what is being written to a folder, by a live run or one that has died.

        With `is_abandoned` and `remove` this is a sweep, of which one can first say what it will remove.
        """

    def is_unfinished(self, name: str) -> bool:
        """Whether a name is one that `unfinished` gives; nothing is looked at."""

    def is_abandoned(self, name: str) -> bool:
        """Whether the run that writes something unfinished is known to be dead."""

    def append(self, name: str, data: bytes) -> None:
        """Adds to the end of an object, which is made if it is missing; not durable when this returns."""


def levels_below(store: Store, folder: str = "") -> Iterator[tuple[str, Listing]]:
    """A folder and all below it, each with what lies directly in it; raises as `Store.list`."""
    pending = [folder]
    while pending:
        one = pending.pop()
        listing = store.list(one)
        pending.extend(sorted(listing.folders, reverse=True))
        yield one, listing
