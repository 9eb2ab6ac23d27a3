"""Reads the tensors and values of a sharded checkpoint, of each tensor what a rank needs and no more."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import DTensor

from marlin_ckpt.distributed.reads import items
from marlin_ckpt.distributed.reads.boxes import Box, is_ordered, runs, shared
from marlin_ckpt.distributed.reads.filling import Fill, Target, fill_all, fill_now
from marlin_ckpt.distributed.reads.folder import Sharded
from marlin_ckpt.distributed.reads.index import Index
from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.layouts.dcp.faults import overlap
from marlin_ckpt.formats.layouts.dcp.pieces import Chunk
from marlin_ckpt.formats.layouts.dcp.saved import Item
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.values.tensor import contiguous_stride
from marlin_ckpt.storage.threads import in_order

_TOGETHER_BYTES = 1 << 20  # of items that are found and read in one task


class Wanted(NamedTuple):
    """A stretch of a saved tensor, and the tensor that it is read into.

    Attributes:
        name: the flat name of the saved one.
        box: which part of it.
        into: of the box's shape; of any device, strides and dtype.
    """

    name: str
    box: Box
    into: torch.Tensor


def box_of(tensor: torch.Tensor) -> Box:
    """Which part of a tensor is here: all of it, or of a DTensor the part of this rank."""
    nowhere = (0,) * tensor.dim()
    if not isinstance(tensor, DTensor):
        return Box(nowhere, tuple(tensor.shape))
    if tensor.device_mesh.get_coordinate() is None:  # this rank is not in its mesh
        return Box(nowhere, nowhere)
    (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
    return Box(tuple(chunk.offsets), tuple(chunk.sizes))


def dtype_of(sharded: Sharded, name: str) -> torch.dtype:
    """The dtype of a saved tensor.

    Raises:
        CorruptCheckpointError: torch has none of that name.
    """
    text = sharded.index.dtype(name)
    found = getattr(torch, text, None)
    if not isinstance(found, torch.dtype):
        raise CorruptCheckpointError(f"tensor {name} is of the unknown type {text}", sharded.path)
    return found


def values_of(sharded: Sharded, names: Iterable[str], *, weights_only: bool) -> dict[str, Any]:
    """Reads and checks values.

    Raises:
        BadFileError, StorageError, UnloadableStateError: as `read_file` raises them.
    """
    found = {}
    for name in names:
        item = sharded.index.item(name)
        found[name] = items.value_of(item, sharded.file(item.place.file), weights_only=weights_only)
    return found


def read_tensors(sharded: Sharded, wanted: Iterable[Wanted]) -> None:
    """Reads stretches of saved tensors into memory, and compares the checksums of all that is read.

    Where a checksum does not hold, what was read into is undefined.

    Raises:
        CorruptCheckpointError: bytes are missing or changed, or the pieces do not make up a stretch; it names
            the tensor.
        UnknownFormatError: an item is packed in a way that is not read here.
        StorageError: a shard cannot be read.
    """
    jobs: dict[str, list[_Job]] = {}
    for one in wanted:
        for job in _jobs(sharded, one):
            jobs.setdefault(job.item.place.file, []).append(job)

    def find(group: Sequence[_Job]) -> list[Fill]:
        file = sharded.file(group[0].item.place.file)
        fills = [job.fill(items.data_of(job.item, file)) for job in group]
        if len(group) == 1:
            return fills
        fill_now(fills)
        return []

    with torch.no_grad():
        fill_all(itertools.chain.from_iterable(in_order(find, _groups(jobs.values()))))


class _Job(NamedTuple):
    """A piece of a tensor, and what of it goes where; whether other ranks load the rest of the tensor."""

    item: Item
    box: Box
    place: Box
    stride: tuple[int, ...]
    item_bytes: int
    target: Target
    is_split: bool

    def fill(self, data: Any) -> Fill:
        found = runs(self.box, self.place, self.stride, self.item_bytes)
        fill = Fill(data, found, self.target)
        fill.is_own = self.is_split and fill.is_dense()
        return fill


def pieces_of(index: Index, name: str, box: Box, path: str) -> list[tuple[Item, Box]]:
    """The pieces of a saved tensor that have something of a box, each with all of it that it has.

    Args:
        index: of the checkpoint.
        name: the flat name of the tensor.
        box: a part of it.
        path: of the checkpoint, for messages.

    Raises:
        CorruptCheckpointError: they do not make up the box.
    """
    found: list[tuple[Item, Box]] = []
    parts: list[Chunk] = []
    for chunk in index.chunks(name, box):
        if not len(chunk.offsets) == len(chunk.shape) == len(box.shape):
            what = f"a piece of tensor {name} has another number of dimensions"
            raise CorruptCheckpointError(what, path, tensors=(name,))
        if common := shared(Box(*chunk), box):
            parts.append(Chunk(*common))
            found.append((index.item(name, chunk), Box(*chunk)))
    covered, number = sum(math.prod(part.shape) for part in parts), math.prod(box.shape)
    if covered != number or overlap(parts):
        what = f"the pieces of tensor {name} do not make it up, but {covered:,} of {number:,} elements"
        raise CorruptCheckpointError(what, path, tensors=(name,))
    return found


def _jobs(sharded: Sharded, one: Wanted) -> Iterator[_Job]:
    dtype = dtype_of(sharded, one.name)
    target, stride = _target(one, dtype)
    is_split = one.box.shape != tuple(sharded.index.shape(one.name))
    for item, box in pieces_of(sharded.index, one.name, one.box, sharded.path):
        target.expect()
        yield _Job(item, box, one.box, stride, dtype.itemsize, target, is_split)


def _target(one: Wanted, dtype: torch.dtype) -> tuple[Target, tuple[int, ...]]:
    """The memory that a stretch is read to: the tensor's own where its elements are in the same order."""
    into = one.into.detach()
    if (
        into.device.type == "cpu"
        and into.dtype == dtype
        and not (into.is_conj() or into.is_neg())
        and is_ordered(tuple(into.shape), into.stride())
    ):
        return Target(lambda: _memory(into)), into.stride()
    made: list[torch.Tensor] = []

    def make() -> memoryview:
        made.append(torch.empty(one.box.shape, dtype=dtype))
        return _memory(made[0])

    def done() -> None:
        with torch.no_grad():
            into.copy_(made.pop())

    return Target(make, done), contiguous_stride(one.box.shape)


def _memory(tensor: torch.Tensor) -> memoryview:
    """The memory from a tensor's first element to its last; the tensor must outlive it."""
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return memory(tensor.data_ptr(), (reach + 1) * tensor.element_size() if tensor.numel() else 0)


def _groups(files: Iterable[list[_Job]]) -> Iterator[list[_Job]]:
    """The pieces of each file in their order, as many small ones together as are read in one task."""
    for jobs in files:
        group: list[_Job] = []
        size = 0
        for job in sorted(jobs, key=lambda one: one.item.place.start):
            own = job.item.place.size_bytes
            if group and size + own > _TOGETHER_BYTES:
                yield group
                group, size = [], 0
            group.append(job)
            size += own
        if group:
            yield group
