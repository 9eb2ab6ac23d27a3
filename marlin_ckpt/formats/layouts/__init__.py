"""Folders that are one checkpoint as a whole: the layouts that are known, and how each reads its folders.

A layout is a module of its own with one value, registered here; discovery, retention, the trash, `verify` and
`list` ask these values and know no layout by name.

- `folder`: files of any kind, listed with their checksums by a manifest of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from marlin_ckpt.formats.layouts.folder import FolderLayout
from marlin_ckpt.naming import FileName

if TYPE_CHECKING:
    from marlin_ckpt.entries import Entry
    from marlin_ckpt.formats.verdicts import Inspection, Verdict
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.storage.store import Store


class Layout(Protocol):
    """How a folder makes up one checkpoint.

    Attributes:
        name: of the layout, as `Entry.layout` and users name it.
        manifest: the member that is written last: a folder without it is not one of this layout.
        content: what such a folder holds that is not the three states of a run; "" where it holds these.
    """

    name: str
    manifest: str
    content: str

    def read_name(self, folder: str) -> FileName | None:
        """What a folder's name says of it; None: it is known by no prefix and has no index."""

    def members(self, store: Store, folder: str) -> tuple[str, ...]:
        """The names in the store of the files that make up a folder; none: it is no such checkpoint."""

    def inspect(self, store: Store, entry: Entry) -> Inspection:
        """What can be said of a checkpoint without reading its data; see `formats.inspection.inspect`."""

    def verify(self, store: Store, entry: Entry, on_bytes: OnBytes) -> Verdict:
        """Reads a checkpoint whole; see `formats.verification.verify`."""


_known: dict[str, Layout] = {one.name: one for one in (FolderLayout(),)}


def register(layout: Layout) -> None:
    """Makes a layout known."""
    _known[layout.name] = layout


def layouts() -> tuple[Layout, ...]:
    """The layouts that are known, in the order in which they were registered."""
    return tuple(_known.values())


def of(entry: Entry) -> Layout | None:
    """The layout of a checkpoint that is a folder; None for a file."""
    return _known[entry.layout] if entry.layout else None
