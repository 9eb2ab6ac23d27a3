"""What the metadata of a sharded checkpoint says of its tensors and values, looked up one by one.

The metadata of 1,000 ranks has millions of pieces, of which a rank needs a few thousand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from marlin_ckpt.distributed.reads.boxes import Box
from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.layouts.dcp.metadata import Chunk, Path, Place, Sizes, leads_outside
from marlin_ckpt.formats.layouts.dcp.saved import Item, Saved

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

_MOST_DIMENSIONS = 64  # torch's own limit
_LIMIT = 1 << 62


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


class TorchIndex(Index):
    """The index of a folder of ours, whose metadata has a checksum: it is read by torch's own classes."""

    def __init__(self, metadata: Metadata, path: str) -> None:
        from torch import Size  # noqa: PLC0415 - with all of DCP
        from torch.distributed.checkpoint.metadata import (  # noqa: PLC0415
            MetadataIndex,
            TensorStorageMetadata,
        )

        self._path, self._key, self._size = path, MetadataIndex, Size
        self._items: dict[Any, Item] = {}  # that were looked up
        self._about: dict[str, Any] = metadata.state_dict_metadata
        self._places: dict[Any, Any] = metadata.storage_data
        self.tensors = {name: None for name, one in self._about.items() if type(one) is TensorStorageMetadata}
        self.values = {name: None for name in self._about if name not in self.tensors}
        self.paths = {
            name: path
            for name, path in (metadata.planner_data or {}).items()
            if type(path) is tuple and path and all(type(part) in (str, int) for part in path)
        }

    def dtype(self, name: str) -> str:
        """See `Index.dtype`."""
        return str(self._about[name].properties.dtype).removeprefix("torch.")

    def shape(self, name: str) -> Sizes:
        """See `Index.shape`."""
        return self._sizes(self._about[name].size, name)

    def chunks(self, name: str, box: Box | None = None) -> Iterable[Chunk]:
        """See `Index.chunks`."""
        seen = set()
        first, last = (box.offsets[0], box.offsets[0] + box.shape[0]) if box and box.shape else (0, _LIMIT)
        for one in self._about[name].chunks:
            offsets, sizes = one.offsets, one.sizes
            if offsets and not (offsets[0] < last and offsets[0] + sizes[0] > first):
                continue  # as nearly all of many ranks, at which no more is looked
            if offsets not in seen:
                seen.add(offsets)
                yield Chunk(self._sizes(offsets, name), self._sizes(sizes, name))

    def item(self, name: str, chunk: Chunk | None = None) -> Item:
        """See `Index.item`."""
        key = name, chunk
        if (known := self._items.get(key)) is not None:
            return known
        offsets = None if chunk is None else self._size(chunk.offsets)
        place = self._places.get(self._key(name, offsets))
        file, start, size = (getattr(place, part, None) for part in ("relative_path", "offset", "length"))
        if type(file) is not str or type(start) is not int or type(size) is not int or leads_outside(file):
            raise _lost(name, self._path)
        found = Item(name, Place(file, start, size), "" if chunk is None else self.dtype(name), chunk)
        self._items[key] = found
        return found

    def names_in(self, file: str) -> tuple[str, ...]:
        """See `Index.names_in`."""
        places = self._places.items()
        return tuple(
            dict.fromkeys(one.fqn for one, place in places if getattr(place, "relative_path", "") == file)
        )

    def _sizes(self, sizes: Any, name: str) -> Sizes:
        is_sound = (
            len(sizes) <= _MOST_DIMENSIONS
            and (type(sizes) is self._size or all(type(one) is int for one in sizes))  # a Size has only such
            and (not sizes or (min(sizes) >= 0 and max(sizes) < _LIMIT))
        )
        if not is_sound:
            what = f"the metadata does not say how large tensor {name} is"
            raise CorruptCheckpointError(what, self._path, tensors=(name,))
        return tuple(sizes)


def _lost(name: str, path: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"the metadata does not say where {name} is", path, tensors=(name,))
