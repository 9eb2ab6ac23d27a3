"""What the folders of other tools have in common: which of their files hold which state.

A layout of another tool is a subclass of `ToolLayout` with a `makeup`: a look at names, sizes and small JSON
files that says what belongs together and what is missing. What can be asked of a folder follows from that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from marlin_ckpt.formats.layouts.layout import Layout, Names, foreign_name

if TYPE_CHECKING:
    from marlin_ckpt.entries import Entry
    from marlin_ckpt.formats.content.contents import Contents
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.values.tensor import TensorInfo
    from marlin_ckpt.formats.verdicts import Inspection, Verdict
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.naming import FileName
    from marlin_ckpt.storage.store import Store

_LONGEST = 255  # characters of a name; no file on Linux has a longer one
_LONGEST_CLAUSE = 1_000  # characters
_MOST_GAPS = 4096  # no run has had more ranks that are missing; a name may have any number


class Part(NamedTuple):
    """A file of a folder, or a sharded folder in it, that holds tensors or values.

    Attributes:
        name: its name in the folder.
        state: under which name its content is in the tree, `optimizer`; "" where it is the tree's root.
        layout: of a folder in it, the name of its layout.
        partial: what puts its tensors together, where they are parts of larger ones and it does not say so.
    """

    name: str
    state: str = ""
    layout: str = ""
    partial: str = ""


@dataclass(slots=True)
class Makeup:
    """How a folder makes up one checkpoint.

    Attributes:
        parts: what it holds, in the order in which it is shown.
        missing: what it lacks, a few words each: `optimizer.pt is missing`.
        wrong: what is damaged or contradicts, a few words each: `config.json: not JSON`.
        notes: what is odd about it and may be meant.
        metrics: that the tool keeps in it.
        values: names of JSON files; each is shown in the tree, under its name without the end.
        places: of tensors that an index lists, the file that it says holds them, by the tensor's name.
        tensor_bytes: how many bytes of tensors the index states.
    """

    parts: Sequence[Part] = ()
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metrics: Mapping[str, float] = field(default_factory=dict)
    values: Sequence[str] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    tensor_bytes: int | None = None


class ToolLayout(Layout):
    """A layout of another tool; see `Layout`."""

    is_ours = False
    is_flat = False

    @abstractmethod
    def makeup(self, folder: Folder) -> Makeup:
        """Says how a folder makes up one checkpoint; opens no file but small ones.

        Raises:
            StorageError: a file cannot be read.
        """

    def read_name(self, folder: str) -> FileName | None:
        """Reads a name by the grammars of other tools; see `Layout.read_name`."""
        return foreign_name(folder)

    def members(self, store: Store, folder: str, names: Names) -> tuple[str, ...]:
        """All files in the folder; at any depth where folders in it are part of it."""
        from marlin_ckpt.storage.store import levels_below  # noqa: PLC0415 - commands that read names go without

        if self.is_flat:
            return tuple(f"{folder}/{one}" if folder else one for one in sorted(names.files))
        return tuple(one for _, listing in levels_below(store, folder) for one in listing.objects)

    def inspect(self, store: Store, entry: Entry) -> Inspection:
        """Looks at the names, and at the structure of each file; see `Layout.inspect`."""
        from marlin_ckpt.formats.layouts import judgement  # noqa: PLC0415 - as above
        from marlin_ckpt.formats.layouts.members import Folder  # noqa: PLC0415

        return judgement.inspect(entry, self, Folder(store, entry))

    def verify(self, store: Store, entry: Entry, on_bytes: OnBytes) -> Verdict:
        """Reads each file whole and compares the checksums that it has; see `Layout.verify`."""
        from marlin_ckpt.formats.layouts.members import Folder  # noqa: PLC0415 - as above

        return self.verify_in(Folder(store, entry), on_bytes)._replace(size_bytes=entry.size_bytes)

    def deep(self, store: Store, entry: Entry, on_bytes: OnBytes) -> Verdict:
        """Compares the files of a snapshot of the hub with their digests; see `Layout.deep`."""
        from marlin_ckpt.formats.layouts import digests  # noqa: PLC0415 - as above

        return digests.verify(self, store, entry, on_bytes)

    def contents(self, store: Store, entry: Entry) -> Contents:
        """Puts what its files hold together; see `Layout.contents`."""
        from marlin_ckpt.formats.layouts.members import Folder  # noqa: PLC0415 - as above

        return self.contents_in(Folder(store, entry))

    def verify_in(self, folder: Folder, on_bytes: OnBytes) -> Verdict:
        """Verifies a folder, which may be a part of another."""
        from marlin_ckpt.formats.layouts import judgement  # noqa: PLC0415 - as above

        return judgement.verify(folder, self, on_bytes)

    def contents_in(self, folder: Folder) -> Contents:
        """What a folder holds, which may be a part of another."""
        from marlin_ckpt.formats.layouts import assembly  # noqa: PLC0415 - as above

        return assembly.assemble(folder, self.name, self.makeup(folder))


def misplaced(places: Mapping[str, str], held: Mapping[str, Iterable[TensorInfo]]) -> Iterator[str]:
    """What an index says of tensors, and the files do not hold.

    Args:
        places: of tensors, the file that the index names, by the tensor's name.
        held: the tensors of each file, by its name; what it lacks was not read.
    """
    lost: dict[str, list[str]] = {}
    names = {file: {one.name for one in tensors} for file, tensors in held.items()}
    for name, file in places.items():
        if file in names and name not in names[file]:
            lost.setdefault(file, []).append(name)
    for file, missing in lost.items():
        yield f"{file} lacks {listed(sorted(missing))}, which the index says is in it"


def listed(names: Sequence[str], most: int = 3) -> str:
    """A few of some names, each as long as a line takes, and whether there are more."""
    return ", ".join(one[:_LONGEST] for one in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def clauses(said: Iterable[str]) -> tuple[str, ...]:
    """What is said of a folder, each clause once; what a hostile file makes very long is cut."""
    return tuple(
        dict.fromkeys(
            one if len(one) <= _LONGEST_CLAUSE else f"{one[:_LONGEST_CLAUSE]}..." for one in said if one
        )
    )


def gaps(numbers: Collection[int]) -> list[int]:
    """The numbers from 0 on that are missing before the greatest of some; not more than a few thousand."""
    last = max(numbers, default=0)
    return [one for one in range(min(last, _MOST_GAPS)) if one not in numbers]


def folders_of(folder: Folder) -> list[str]:
    """The names of the folders directly in a folder that have files in them, sorted."""
    return sorted({name.partition("/")[0] for name in folder.items if "/" in name})
