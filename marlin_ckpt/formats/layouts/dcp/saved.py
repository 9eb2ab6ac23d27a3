"""What was saved in a folder, by its metadata: one file for all ranks, or one for each."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.layouts.dcp.metadata import Metadata, read_metadata
from marlin_ckpt.formats.layouts.dcp.pieces import Chunk, Described, Path, Place, Sizes

if TYPE_CHECKING:
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.storage.source import Source

METADATA = ".metadata"
OF_RANK = re.compile(r"__([0-9]{1,9})\.metadata")
SHARD = ".distcp"


class Item(NamedTuple):
    """A piece of a tensor, or a value: a file of `torch.save` inside a shard.

    Attributes:
        name: its flat name.
        place: where it is.
        dtype: of a tensor; "" of a value.
        chunk: of a tensor, which part of it; None of a value.
    """

    name: str
    place: Place
    dtype: str = ""
    chunk: Chunk | None = None


class Saved(NamedTuple):
    """What was saved in a folder.

    Attributes:
        tensors: by their flat names; of equal chunks one is in it.
        values: of all values one item.
        pieces: of each chunk of a tensor, by its flat name and the chunk's offsets, one item.
        items: all of them, also those that several ranks wrote alike.
        lost: the flat names of which the metadata does not say where all is.
        paths: the keys that lead to what has a flat name.
        budget: what is left for making a tree.
        of_ranks: whether each rank wrote metadata of its own.
    """

    tensors: dict[str, Described]
    values: dict[str, Item]
    pieces: dict[tuple[str, Sizes], Item]
    items: list[Item]
    lost: list[str]
    paths: dict[str, Path]
    budget: Budget
    of_ranks: bool

    def files(self) -> dict[str, list[Item]]:
        """The items of each file, in their order there."""
        found: dict[str, list[Item]] = {}
        for one in self.items:
            found.setdefault(one.place.file, []).append(one)
        for items in found.values():
            items.sort(key=lambda one: (one.place.start, one.place.size_bytes))
        return found

    def pieces_of(self, name: str) -> Iterator[Item]:
        """The items that make up a tensor."""
        for chunk in self.tensors[name].chunks:
            if one := self.pieces.get((name, chunk.offsets)):
                yield one

    def ties(self) -> dict[str, str]:
        """The names of tensors that are stored where one of an earlier name is, each with that name."""
        first: dict[tuple[object, ...], str] = {}
        ties = {}
        for name, tensor in self.tensors.items():
            if 0 not in tensor.shape and (known := first.setdefault(self.places_of(name), name)) != name:
                ties[name] = known
        return ties

    def places_of(self, name: str) -> tuple[object, ...]:
        """Where a tensor is stored, and as what."""
        places = tuple((one.place.file, one.place.start) for one in self.pieces_of(name))
        return (*self.tensors[name][:2], places)


def metadata_files(folder: Folder) -> list[str]:
    """The names of a folder's metadata: that of all ranks, else those of each."""
    if METADATA in folder.items:
        return [METADATA]
    ranks = {int(found[1]): name for name in folder.items if (found := OF_RANK.fullmatch(name))}
    return [ranks[rank] for rank in sorted(ranks)]


def read_saved(folder: Folder) -> Saved:
    """Reads a folder's metadata.

    Raises:
        BadFileError, StorageError: as `read_metadata` does.
    """
    files = metadata_files(folder)
    with contextlib.ExitStack() as stack:
        return saved_in({name: stack.enter_context(folder.open(name)) for name in files}, folder.path)


def saved_in(files: Mapping[str, Source], path: str) -> Saved:
    """Reads a folder's metadata; raises as `read_saved`.

    Args:
        files: of metadata, by their names, at least one.
        path: of the folder.
    """
    return saved_of({name: read_metadata(source) for name, source in files.items()}, path)


def saved_of(found: Mapping[str, Metadata], path: str) -> Saved:
    """What a folder's metadata says, which was read.

    Raises:
        CorruptCheckpointError: that of one rank contradicts that of another.
    """
    saved = Saved({}, {}, {}, [], [], {}, next(iter(found.values())).budget, [*found] != [METADATA])
    for name, one in found.items():
        _add(saved, one, f"{path}/{name}")
    return saved


def _add(saved: Saved, found: Metadata, path: str) -> None:
    saved.paths.update(found.paths)
    for name in found.values:
        place = found.places.get((name, ()))
        if place is None:
            saved.lost.append(name)
            continue
        saved.items.append(Item(name, place))
        saved.values.setdefault(name, saved.items[-1])
    for name, tensor in found.tensors.items():
        before = saved.tensors.get(name)
        if before is not None and (before.dtype, before.shape) != (tensor.dtype, tensor.shape):
            raise CorruptCheckpointError(f"another rank's metadata has another {name[:100]}", path)
        new = []
        for chunk in tensor.chunks:
            place = found.places.get((name, chunk.offsets))
            if place is None:
                saved.lost.append(name)
                continue
            saved.items.append(Item(name, place, tensor.dtype, chunk))
            if saved.pieces.setdefault((name, chunk.offsets), saved.items[-1]) is saved.items[-1]:
                new.append(chunk)
        chunks = tuple(new) if before is None else (*before.chunks, *new)
        saved.tensors[name] = tensor._replace(chunks=chunks)
