"""Writes folders of torch's Distributed Checkpoint as so many ranks would, in one process."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .made import Tensors, folder


def chunks(of: torch.Tensor, ranks: int) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """Cuts a tensor as FSDP2 does: along its first dimension, by `torch.chunk`; late ranks may have none.

    Args:
        of: What is cut; one without dimensions stays whole.
        ranks: Into at most so many pieces.

    Returns:
        Each piece with its offset in every dimension, by rank.
    """
    if not of.dim():
        return [((), of)]
    cut, begin = [], 0
    for piece in torch.chunk(of, ranks):
        cut.append(((begin, *[0] * (of.dim() - 1)), piece.contiguous()))
        begin += len(piece)
    return cut


def write_dcp(
    path: Path,
    state: Mapping[str, Any],
    *,
    ranks: int = 2,
    is_sharded: Callable[[str], bool] = lambda name: not name.endswith("step"),
    flatten: bool = True,
    with_version: bool = True,
    files_a_rank: int = 1,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Writes `.metadata` and `__R_0.distcp` as `dcp.save` does (torch 2.13, checkpoint/filesystem.py).

    Each piece of a tensor is a `torch.save` file of its own inside the `.distcp`, one after the other;
    whatever is no tensor is one too. Those that no rank shares are given to the ranks in turn.

    Args:
        path: The folder, which need not be there.
        state: What is saved, nested.
        ranks: How many ranks save.
        is_sharded: Of which tensors, by their flat names, each rank has a part.
        flatten: Whether names are flattened and `planner_data` kept, as all but Megatron-Core do.
        with_version: Whether the metadata has the fields of torch 2.4 and later.
        files_a_rank: Into how many files each rank writes, as `FileSystemWriter(thread_count=...)`.
        extra: Attributes that a package adds to the metadata.

    Returns:
        For each entry the files that hold parts of it.
    """
    from torch.distributed.checkpoint import metadata as values
    from torch.distributed.checkpoint._nested_dict import flatten_state_dict
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    folder(path)
    flat, planner_data = flatten_state_dict(dict(state)) if flatten else (dict(state), None)
    streams: dict[str, io.BytesIO] = {}
    described: dict[str, Any] = {}
    stored: dict[Any, Any] = {}
    holders: dict[str, tuple[str, ...]] = {}

    def put(rank: int, number: int, content: Any) -> _StorageInfo:
        name = f"__{rank}_{number % files_a_rank}.distcp"
        stream = streams.setdefault(name, io.BytesIO())
        offset, packed = stream.tell(), io.BytesIO()
        torch.save(content, packed)
        stream.write(packed.getvalue())
        return _StorageInfo(name, offset, stream.tell() - offset)

    for number, (name, one) in enumerate(flat.items()):
        if isinstance(one, torch.Tensor):
            pieces = chunks(one, ranks if is_sharded(name) else 1)
            first = 0 if is_sharded(name) else number % ranks
            infos = [put(first + at, number, piece.clone()) for at, (_, piece) in enumerate(pieces)]
            indices = [values.MetadataIndex(name, begin, at) for at, (begin, _) in enumerate(pieces)]
            described[name] = values.TensorStorageMetadata(
                values.TensorProperties.create_from_tensor(one),
                one.size(),
                [values.ChunkStorageMetadata(torch.Size(begin), piece.size()) for begin, piece in pieces],
            )
        else:
            infos, indices = [put(number % ranks, number, one)], [values.MetadataIndex(name)]
            described[name] = values.BytesStorageMetadata()
        stored |= dict(zip(indices, infos, strict=True))
        holders[name] = tuple(dict.fromkeys(info.relative_path for info in infos))
    for name, stream in streams.items():
        (path / name).write_bytes(stream.getvalue())
    meta = values.Metadata(described, planner_data, stored)
    if with_version:
        meta.storage_meta = values.StorageMeta(path, "00000000-0000-4000-8000-000000000000")
        meta.version = "1.0.0"
    else:
        del meta.version, meta.storage_meta
    vars(meta).update(extra or {})
    (path / ".metadata").write_bytes(pickle.dumps(meta))
    return holders


def write_hugging_face_shards(path: Path, of: Tensors, *, ranks: int = 2) -> dict[str, tuple[str, ...]]:
    """Writes `shard-0000R-model-00001-of-00001.safetensors` (torch 2.13, checkpoint/hf_storage.py).

    So does `HuggingFaceStorageWriter(save_distributed=True)`: each file has the rank's pieces under their
    whole names, and the offsets of them as JSON in its metadata, under `DCP_SHARDING_INFO`. There is no
    index, and the global shape is stated nowhere: it is the largest end of any piece.

    Args:
        path: The folder, which need not be there.
        of: The weights.
        ranks: How many ranks save.

    Returns:
        For each weight the files that hold parts of it.
    """
    folder(path)
    held: dict[str, list[str]] = {name: [] for name in of}
    for rank in range(ranks):
        mine = {name: cut[rank] for name, one in of.items() if rank < len(cut := chunks(one, ranks))}
        if not mine:
            continue  # a rank without items writes no file
        file = f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"
        offsets = {name: {"saved_offsets": list(begin)} for name, (begin, _) in mine.items()}
        metadata = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
        save_file({name: piece for name, (_, piece) in mine.items()}, path / file, metadata=metadata)
        for name in mine:
            held[name].append(file)
    return {name: tuple(files) for name, files in held.items()}
