"""Folders that are one checkpoint as a whole: the layouts that are known, and how each reads its folders.

A layout is a module of its own that registers one value; discovery, retention, the trash, `verify` and `list`
ask these values and know no layout by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

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
    """

    name: str
    manifest: str

    def fits(self, folder: str) -> FileName | None:
        """Reads a folder's name by the layout's grammar; None where it does not fit."""

    def members(self, files: Sequence[str]) -> tuple[str, ...]:
        """Which of the files directly in a folder that fits belong to it; none: it is no such checkpoint."""

    def inspect(self, store: Store, entry: Entry) -> Inspection:
        """What can be said of a checkpoint without reading its data; see `formats.inspection.inspect`."""

    def verify(self, store: Store, entry: Entry, on_bytes: OnBytes) -> Verdict:
        """Reads a checkpoint whole; see `formats.verification.verify`."""


_known: dict[str, Layout] = {}


def register(layout: Layout) -> None:
    """Makes a layout known."""
    _known[layout.name] = layout


def layouts() -> tuple[Layout, ...]:
    """The layouts that are known, in the order in which they were registered."""
    return tuple(_known.values())


def of(entry: Entry) -> Layout | None:
    """The layout of a checkpoint that is a folder; None for a file."""
    return _known[entry.layout] if entry.layout else None
