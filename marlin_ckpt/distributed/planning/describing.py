"""What one rank has of a state: compact descriptions, from which rank 0 plans for all."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from isal import isal_zlib
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from marlin_ckpt.distributed.flat import Flat, Kinds, Path, local_of
from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.manifest import Mesh
from marlin_ckpt.formats.zip.state_dict import tensor_pickle

ABSENT = -1
_FAST = 1  # zlib's level: what is sent shrinks to a tenth


class Entry(NamedTuple):
    """A tensor as a whole."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Chunk(NamedTuple):
    """The part of a tensor that a rank has: where its first element is in the whole, and its sizes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class Table(NamedTuple):
    """What rank 0 has, by which the others describe what they have.

    Attributes:
        entries: its tensors.
        values: the names of its values.
        kinds: of its containers.
    """

    entries: tuple[Entry, ...]
    values: frozenset[str]
    kinds: Kinds


class Own(NamedTuple):
    """What a rank has.

    Attributes:
        chunks: of the table's tensors, int64 of shape [tensor, 2, 1 + dimension]: the offsets, then the
            sizes. What the rank does not have is marked by `ABSENT` before its sizes.
        extras: the tensors that rank 0 has not, each with its chunk.
        values: the names of the values that rank 0 has not, at rank 0 of all, and the lengths of their files.
        paths: of what rank 0 has not.
        ties: names of the same tensor, which rank 0 has not.
    """

    chunks: np.ndarray
    extras: list[tuple[Entry, Chunk]]
    values: dict[str, int]
    paths: dict[str, Path]
    ties: dict[str, str]

    def to_bytes(self) -> bytes:
        """It as `from_bytes` reads it."""
        # Column by column: what lies beside one another then is alike, and compresses.
        columns = np.ascontiguousarray(np.moveaxis(self.chunks, 0, -1))
        about = (columns.shape, columns.tobytes(), *self[1:])
        return isal_zlib.compress(pickle.dumps(about), _FAST)

    @classmethod
    def from_bytes(cls, data: bytes) -> Own:
        """Reads what a rank of this run has sent."""
        shape, columns, *rest = pickle.loads(isal_zlib.decompress(data))  # noqa: S301 - of our own run
        return cls(np.moveaxis(np.frombuffer(columns, np.int64).reshape(shape), -1, 0), *rest)


def key_of(flat: Flat) -> tuple[Any, ...]:
    """What a plan depends on at this rank, but for the lengths of values."""
    tensors = tuple(map(_key, flat.tensors.values()))
    return (*flat.paths.items(), *flat.tensors, *flat.ties.items(), tensors)


def _key(tensor: torch.Tensor) -> tuple[Any, ...]:
    if not isinstance(tensor, DTensor):
        return tensor.shape, tensor.dtype
    # Its part may have been replaced by one that is not what its placement says, which `describe` finds.
    local = local_of(tensor)
    return tensor._spec, tensor.dtype, local.shape, local.dtype  # noqa: SLF001


def entry_of(name: str, tensor: torch.Tensor) -> Entry:
    """The whole of a tensor.

    Raises:
        UnsavableStateError: no plain tensor is of its dtype.
    """
    entry = Entry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    tensor_pickle(entry.dtype, ())
    return entry


def entries_of(flat: Flat) -> tuple[Entry, ...]:
    """The tensors of a state, each once."""
    return tuple(entry_of(name, one) for name, one in flat.tensors.items() if name not in flat.ties)


def describe(flat: Flat, table: Table, values: Mapping[str, int]) -> Own:
    """Describes what this rank has.

    Args:
        flat: its state.
        table: of rank 0.
        values: the values that this rank is to send the lengths of.

    Raises:
        UnsavableStateError: a tensor is a partial sum, or not what its placement says.
    """
    chunks_of = _Chunks()
    dimensions = max((len(one.shape) for one in table.entries), default=0)
    chunks = np.zeros((len(table.entries), 2, dimensions + 1), np.int64)
    chunks[:, 1, 0] = ABSENT
    known = set()
    for number, entry in enumerate(table.entries):
        one = flat.tensors.get(entry.name)
        if one is None or entry.name in flat.ties or entry_of(entry.name, one) != entry:
            continue
        known.add(entry.name)
        if (chunk := chunks_of(entry, one)) is not None:
            chunks[number, 1, 0] = 0
            chunks[number, :, 1 : len(entry.shape) + 1] = chunk
    extras = [
        (entry, chunk)
        for name, one in flat.tensors.items()
        if name not in known and name not in flat.ties
        for entry in (entry_of(name, one),)
        for chunk in (chunks_of(entry, one),)
        if chunk is not None
    ]
    names = {*values, *(entry.name for entry, _ in extras), *flat.ties}
    # In the order of the state, which is that of its dicts when it is loaded.
    order = (one for one in (*flat.paths, *values) if one in names)
    paths = {name: flat.paths.get(name, (name,)) for name in order}
    return Own(chunks, extras, dict(values), paths, dict(flat.ties))


class _Chunks:
    """Finds the chunks of tensors; those of the same shape and placement once."""

    def __init__(self) -> None:
        self._known: dict[Any, Chunk] = {}

    def __call__(self, entry: Entry, tensor: torch.Tensor) -> Chunk | None:
        if tensor.device.type == "meta":
            raise UnsavableStateError(f"{entry.name} is on the meta device and has no bytes to save")
        if not isinstance(tensor, DTensor):
            return Chunk((0,) * len(entry.shape), entry.shape)
        mesh, placements = tensor.device_mesh, tensor.placements
        if mesh.get_coordinate() is None:
            return None
        if any(one.is_partial() for one in placements):
            hint = "redistribute it, or save what it was made from"
            raise UnsavableStateError(
                f"{entry.name} is a partial sum, of which no rank has the value", "", hint
            )
        key = (entry.shape, id(mesh), placements)
        if key not in self._known:
            sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
            self._known[key] = Chunk(tuple(offsets), tuple(sizes))
        found = self._known[key]
        local = local_of(tensor)
        if (sizes := tuple(local.shape)) != found.sizes or local.dtype != tensor.dtype:
            has, says = f"{sizes} in {local.dtype}", f"{found.sizes} in {tensor.dtype}"
            raise UnsavableStateError(f"this rank has {has} of {entry.name}, and its placement says {says}")
        if 0 in found.sizes:
            return Chunk((0,) * len(entry.shape), entry.shape) if 0 in entry.shape else None
        return found


def mesh_of(tensors: Iterable[torch.Tensor]) -> Mesh | None:
    """How the ranks are arranged: the mesh of the most dimensions of a tensor; None without DTensors."""
    meshes = {one.device_mesh for one in tensors if isinstance(one, DTensor)}
    if not meshes:
        return None
    found = max(meshes, key=lambda one: (one.ndim, one.size(), one.mesh_dim_names or ()))
    names = found.mesh_dim_names or tuple(map(str, range(found.ndim)))
    return Mesh(tuple(names), tuple(found.shape))
