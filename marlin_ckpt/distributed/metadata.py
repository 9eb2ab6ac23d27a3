"""`.metadata`, torch's pickle in a sharded checkpoint: its bytes, and torch's own objects of it."""

from __future__ import annotations

import pickle

import torch
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.layouts.dcp.pieces import Described
from marlin_ckpt.formats.layouts.dcp.saved import Item, Saved

NAME = ".metadata"


def to_bytes(whole: Metadata) -> bytes:
    """The bytes of the file; equal metadata that was made in the same way gives equal bytes."""
    return pickle.dumps(whole, protocol=pickle.HIGHEST_PROTOCOL)


def of_saved(saved: Saved, path: str) -> Metadata:
    """What was read without torch, within the limits on what a file may take, as torch has it.

    Args:
        saved: what the metadata of the folder says.
        path: of the folder, for messages.

    Raises:
        CorruptCheckpointError: a tensor is of a type that torch does not know.
    """
    names = dict.fromkeys((*saved.paths, *saved.tensors, *saved.values))
    about = {
        name: _tensor(name, saved.tensors[name], path) if name in saved.tensors else BytesStorageMetadata()
        for name in names
        if name in saved.tensors or name in saved.values
    }
    paths = {name: saved.paths.get(name, (name,)) for name in about} if saved.paths else None
    numbers: dict[str, int] = {}
    places = {}
    for one in saved.items:
        number = numbers[one.name] = numbers.get(one.name, -1) + 1
        places[_index(one, number)] = _StorageInfo(
            one.place.file, one.place.start, one.place.size_bytes, list(one.place.packing) or None
        )
    return Metadata(about, paths, places, version=CURRENT_DCP_VERSION)


def _tensor(name: str, one: Described, path: str) -> TensorStorageMetadata:
    dtype = getattr(torch, one.dtype, None)
    if not isinstance(dtype, torch.dtype):
        what = f"tensor {name} is of the unknown type {one.dtype}"
        raise CorruptCheckpointError(what, path, tensors=(name,))
    chunks = [
        ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.shape)) for chunk in one.chunks
    ]
    return TensorStorageMetadata(TensorProperties(dtype), torch.Size(one.shape), chunks)


def _index(one: Item, number: int) -> MetadataIndex:
    if one.chunk is None:
        return MetadataIndex(one.name)
    return MetadataIndex(one.name, torch.Size(one.chunk.offsets), number)
