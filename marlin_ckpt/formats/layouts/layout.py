"""What can be asked of each layout."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from marlin_ckpt.naming import FileName

if TYPE_CHECKING:
    from marlin_ckpt.entries import Entry
    from marlin_ckpt.formats.content.contents import Contents
    from marlin_ckpt.formats.verdicts import Inspection, Verdict
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.storage.store import Store


class Names(NamedTuple):
    """The names of what lies directly in a folder, of which nothing was looked at.

    Attributes:
        files: what is no folder, links included.
        folders: those in it.
    """

    files: frozenset[str]
    folders: frozenset[str]


class Layout(Protocol):
    """How a folder makes up one checkpoint.

    Attributes:
        name: of the layout, as `Entry.layout` and users name it.
        content: what such a folder holds that is not the three states of a run; "" where it holds these.
        is_ours: whether marlin-ckpt writes such folders; those of other tools are no checkpoints of a run of
            ours, and nothing but a person's command removes one.
        is_flat: whether folders in such a folder are no part of it, and are looked through for others.
        hint: how such a checkpoint is loaded.
    """

    name: str
    content: str
    is_ours: bool
    is_flat: bool
    hint: str

    def recognises(self, names: Names) -> bool:
        """Whether a folder with such names in it may be of this layout."""

    def read_name(self, folder: str) -> FileName | None:
        """What a folder's name says of it; None: it is known by no prefix and has no index."""

    def members(self, store: Store, folder: str, names: Names) -> tuple[str, ...]:
        """The names in the store of the files that make up a folder; none: it is no such checkpoint."""

    def inspect(self, store: Store, entry: Entry) -> Inspection:
        """What can be said of a checkpoint without reading its data; see `formats.inspection.inspect`."""

    def verify(self, store: Store, entry: Entry, on_bytes: OnBytes) -> Verdict:
        """Reads a checkpoint whole; see `formats.verification.verify`."""

    def deep(self, store: Store, entry: Entry, on_bytes: OnBytes) -> Verdict:
        """Verifies a checkpoint, and compares its files with the digests that name them elsewhere, too.

        Such names are those of the blobs in the cache of the Hugging Face hub. The verdict is `intact` where
        every file has one; where none has, this is `verify`.
        """
        return self.verify(store, entry, on_bytes)

    def needs(self, store: Store, entry: Entry) -> frozenset[str] | None:
        """The names of checkpoints in the same directory that the tool's bookkeeping in this one still needs.

        A run goes by what the newest of its checkpoints says that says anything.

        Returns:
            the names; None where it says nothing, or cannot be read.
        """
        del store, entry
        return None

    def contents(self, store: Store, entry: Entry) -> Contents:
        """What a checkpoint holds, its files put together in one tree.

        Raises:
            BadFileError: a file of it is damaged, or is something else; what is missing is no error, but
                among the gaps.
            StorageError: it cannot be read.
        """


# What follows the start of a name together with the step: of `best_model_300_accuracy=0.9`, and of
# `rl_model_10000_steps`.
_COUNTED = r"_[0-9]+_(?!.*(?:step|epoch)\Z)[A-Za-z][^=]*\Z"


def foreign_name(name: str) -> FileName | None:
    """What the name of a folder, or the stem of a file's, says by the grammars of other tools.

    That of `checkpoint-500` is the index 500 of the prefix `checkpoint`.
    """
    from marlin_ckpt import grammars  # noqa: PLC0415 - names of ours go without

    stem = name.removesuffix(".ckpt")
    found = grammars.read(stem)
    if found is None or (found.step is None and found.epoch is None):
        return None
    index = found.epoch or 0 if found.step is None else found.step
    start = stem.partition("=")[0] if "=" in stem else stem.rstrip("0123456789")
    return FileName(re.sub(_COUNTED, "", start).rstrip("-_"), index, "")
