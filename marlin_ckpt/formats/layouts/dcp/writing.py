"""Writes the `.metadata` of torch's Distributed Checkpoint, without torch.

Source: `torch.distributed.checkpoint.metadata` and `_StorageInfo` in its filesystem.py, torch 2.13.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from marlin_ckpt.formats.layouts.dcp.pieces import Described, Path, Place, Sizes
from marlin_ckpt.formats.pickle.stubs import Globals, Stub, StubWriter

_PROTOCOL = 2
_VALUES = "torch.distributed.checkpoint.metadata"
_STORED = "torch.distributed.checkpoint.filesystem"
_VERSION = "1.0.0"  # CURRENT_DCP_VERSION


def metadata_bytes(
    tensors: Mapping[str, Described],
    values: Mapping[str, Place],
    pieces: Mapping[tuple[str, Sizes], Place],
    paths: Mapping[str, Path],
) -> bytes:
    """The bytes of a `.metadata`.

    Args:
        tensors: by their flat names.
        values: where each value is, by its flat name.
        pieces: where each chunk is, by the flat name of its tensor and the chunk's offsets.
        paths: the keys that lead to what has a flat name, in the order of the state.
    """
    names = Globals()

    def made(name: str, state: Any, module: str = _VALUES) -> Stub:
        stub = Stub(names[module, name], ())
        stub.state, stub.is_called = state, False
        return stub

    def size(sizes: Sizes) -> Stub:
        return Stub(names["torch", "Size"], (tuple(sizes),))

    def tensor(one: Described) -> Stub:
        layout = Stub(names["torch.serialization", "_get_layout"], ("torch.strided",))
        order = Stub(names[_VALUES, "_MEM_FORMAT_ENCODING"], (0,))
        # TensorProperties.__getstate__: dtype, layout, requires_grad, memory format, whether it is pinned.
        properties = made("TensorProperties", (names["torch", one.dtype], layout, False, order, False))
        chunks = [
            made("ChunkStorageMetadata", {"offsets": size(chunk.offsets), "sizes": size(chunk.shape)})
            for chunk in one.chunks
        ]
        about = {"properties": properties, "size": size(one.shape), "chunks": chunks}
        return made("TensorStorageMetadata", about)

    def info(place: Place) -> Stub:
        about = {"relative_path": place.file, "offset": place.start, "length": place.size_bytes}
        return made("_StorageInfo", about, _STORED)

    described = {
        name: tensor(tensors[name]) if name in tensors else made("BytesStorageMetadata", None)
        for name in paths
    }
    stored: dict[Any, Stub] = {}
    for name, one in tensors.items():
        for number, chunk in enumerate(one.chunks):
            about = {"fqn": name, "offset": size(chunk.offsets), "index": number}
            stored[made("MetadataIndex", about)] = info(pieces[name, chunk.offsets])
    for name, place in values.items():
        stored[made("MetadataIndex", {"fqn": name, "offset": None, "index": None})] = info(place)
    whole = {
        "state_dict_metadata": described,
        "planner_data": dict(paths),
        "storage_data": stored,
        "storage_meta": None,
        "version": _VERSION,
    }
    file = io.BytesIO()
    StubWriter(file, _PROTOCOL).dump(made("Metadata", whole))
    return file.getvalue()
