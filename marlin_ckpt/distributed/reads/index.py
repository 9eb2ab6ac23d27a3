"""What the metadata of a sharded checkpoint says of its tensors and values, looked up one by one.

The metadata of 1,000 ranks has millions of pieces, of which a rank needs a few thousand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from marlin_ckpt.distributed.reads.boxes import Box
from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.layouts.dcp.columns.columns import Columns
from marlin_ckpt.formats.layouts.dcp.pieces import Chunk, Path, Sizes
from marlin_ckpt.formats.layouts.dcp.saved import Item, Saved


class Index(Protocol):
    """The tensors and values of a checkpoint.

    Attributes:
        paths: the keys that lead to what has a flat name.
        tensors: the flat names of tensors.
        values: those of all else.
    """

    paths: Mapping[str, Path]
    tensors: Collection[str]
    values: Collection[str]

    def dtype(self, name: str) -> str:
        """The dtype of a tensor, in torch's spelling."""

    def shape(self, name: str) -> Sizes:
        """The shape of a whole tensor."""

    def chunks(self, name: str, box: Box | None = None) -> Iterable[Chunk]:
        """The pieces that a tensor was saved in, equal ones once; of those apart from a box, maybe none."""

    def item(self, name: str, chunk: Chunk | None = None) -> Item:
        """Where a piece of a tensor is, or a value.

        Raises:
            CorruptCheckpointError: the metadata does not say it.
        """

    def names_in(self, file: str) -> tuple[str, ...]:
        """The flat names of what is in a file."""


class PlainIndex(Index):
    """The index of a folder of any tool, which was read without torch."""

    def __init__(self, saved: Saved, path: str) -> None:
        self._saved, self._path = saved, path
        self.paths, self.tensors, self.values = saved.paths, saved.tensors.keys(), saved.values.keys()

    def dtype(self, name: str) -> str:
        """See `Index.dtype`."""
        return self._saved.tensors[name].dtype

    def shape(self, name: str) -> Sizes:
        """See `Index.shape`."""
        return self._saved.tensors[name].shape

    def chunks(self, name: str, box: Box | None = None) -> Iterable[Chunk]:
        """See `Index.chunks`."""
        del box
        return self._saved.tensors[name].chunks

    def item(self, name: str, chunk: Chunk | None = None) -> Item:
        """See `Index.item`."""
        saved = self._saved
        found = saved.values.get(name) if chunk is None else saved.pieces.get((name, chunk.offsets))
        if found is None:
            raise _lost(name, self._path)
        return found

    def names_in(self, file: str) -> tuple[str, ...]:
        """See `Index.names_in`."""
        return tuple(dict.fromkeys(one.name for one in self._saved.items if one.place.file == file))


class ColumnIndex(Index):
    """The index of a folder of ours, of whatever size."""

    def __init__(self, columns: Columns, path: str) -> None:
        self._columns, self._path = columns, path
        self._items: dict[Any, Item] = {}  # that were looked up
        self.paths, self.tensors, self.values = columns.paths, columns.tensors.keys(), columns.values.keys()

    def dtype(self, name: str) -> str:
        """See `Index.dtype`."""
        return self._columns.tensors[name].dtype

    def shape(self, name: str) -> Sizes:
        """See `Index.shape`."""
        return self._columns.tensors[name].shape

    def chunks(self, name: str, box: Box | None = None) -> Iterable[Chunk]:
        """See `Index.chunks`."""
        offsets, sizes = self._columns.chunks_of(name)
        if box is not None and len(box.shape) == offsets.shape[1]:
            start, size = (np.array(one, np.int64) for one in box)
            is_near = ((offsets < start + size) & (offsets + sizes > start)).all(axis=1)
            offsets, sizes = offsets[is_near], sizes[is_near]
        seen = set()
        for here, size in zip(offsets, sizes, strict=True):
            chunk = Chunk(tuple(here.tolist()), tuple(size.tolist()))
            if chunk.offsets not in seen:
                seen.add(chunk.offsets)
                yield chunk

    def item(self, name: str, chunk: Chunk | None = None) -> Item:
        """See `Index.item`."""
        key = name, chunk
        if (known := self._items.get(key)) is not None:
            return known
        place = self._columns.place_of(name, None if chunk is None else chunk.offsets)
        if place is None:
            raise _lost(name, self._path)
        found = Item(name, place, "" if chunk is None else self.dtype(name), chunk)
        self._items[key] = found
        return found

    def names_in(self, file: str) -> tuple[str, ...]:
        """See `Index.names_in`."""
        return tuple(self._columns.names_in(file))


def _lost(name: str, path: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"the metadata does not say where {name} is", path, tensors=(name,))
