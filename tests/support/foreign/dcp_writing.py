"""Writes folders of torch's Distributed Checkpoint as so many ranks would, in one process."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .made import Tensors, folder, split, write_json


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


@dataclasses.dataclass(frozen=True)
class _Item:
    """What one rank writes of one entry: a piece of a tensor, or a whole value."""

    rank: int
    name: str
    content: Any
    size: torch.Size | None = None
    offset: tuple[int, ...] | None = None
    number: int | None = None

    def described(self, values: Any) -> tuple[Any, Any]:
        """Its key in `storage_data`, and what is said of the entry where this is its only piece."""
        if self.size is None:
            return values.MetadataIndex(self.name), values.BytesStorageMetadata()
        chunk = values.ChunkStorageMetadata(torch.Size(self.offset), self.content.size())
        properties = values.TensorProperties.create_from_tensor(self.content)
        index = values.MetadataIndex(self.name, self.offset, self.number)
        return index, values.TensorStorageMetadata(properties, self.size, [chunk])


def _items(
    flat: Mapping[str, Any], ranks: int, is_sharded: Callable[[str], bool], *, is_together: bool
) -> list[_Item]:
    """Shares entries out: a piece to each rank, or the whole to one in turn, or to all where none plans."""
    items = []
    for number, (name, one) in enumerate(flat.items()):
        owners = [number % ranks] if is_together else range(ranks)
        if not isinstance(one, torch.Tensor):
            items += [_Item(rank, name, one) for rank in owners]
        elif is_sharded(name):
            pieces = enumerate(chunks(one, ranks))
            items += [_Item(rank, name, piece.clone(), one.size(), at, rank) for rank, (at, piece) in pieces]
        else:
            items += [_Item(rank, name, one, one.size(), (0,) * one.dim(), 0) for rank in owners]
    return items


def write_dcp(
    path: Path,
    state: Mapping[str, Any],
    *,
    ranks: int = 2,
    is_sharded: Callable[[str], bool] = lambda name: not name.endswith("step"),
    flatten: bool = True,
    with_version: bool = True,
    files_a_rank: int = 1,
    is_together: bool = True,
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
        is_together: Whether the ranks plan together; without, as `use_collectives=False`, each writes its own
            `__R.metadata`, and all that no rank shares.
        extra: Attributes that a package adds to the metadata.

    Returns:
        For each entry the files that hold parts of it.
    """
    from torch.distributed.checkpoint import metadata as values
    from torch.distributed.checkpoint._nested_dict import flatten_state_dict
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    folder(path)
    flat, planner_data = flatten_state_dict(dict(state)) if flatten else (dict(state), None)
    files: dict[str, io.BytesIO] = {}
    metas: dict[str, Any] = {}
    holders: dict[str, list[str]] = {name: [] for name in flat}
    for number, item in enumerate(_items(flat, ranks, is_sharded, is_together=is_together)):
        name = f"__{item.rank}_{number % files_a_rank}.distcp"
        stream, packed = files.setdefault(name, io.BytesIO()), io.BytesIO()
        torch.save(item.content, packed)
        index, told = item.described(values)
        meta = metas.setdefault(
            ".metadata" if is_together else f"__{item.rank}.metadata", values.Metadata({}, planner_data, {})
        )
        meta.storage_data[index] = _StorageInfo(name, stream.tell(), packed.tell())
        known = meta.state_dict_metadata.setdefault(item.name, told)
        if known is not told:
            known.chunks += told.chunks
        stream.write(packed.getvalue())
        if name not in holders[item.name]:
            holders[item.name].append(name)
    for name, stream in files.items():
        (path / name).write_bytes(stream.getvalue())
    for name, meta in metas.items():
        if with_version:
            meta.storage_meta = values.StorageMeta(path, "00000000-0000-4000-8000-000000000000")
            meta.version = "1.0.0"
        else:
            del meta.version, meta.storage_meta
        vars(meta).update(extra or {})
        (path / name).write_bytes(pickle.dumps(meta))
    return {name: tuple(held) for name, held in holders.items()}


def write_hugging_face_shards(
    path: Path, of: Tensors, *, ranks: int = 2, shards: int = 1
) -> dict[str, tuple[str, ...]]:
    """Writes `shard-0000R-model-00001-of-00001.safetensors` (torch 2.13, checkpoint/hf_storage.py).

    So does `HuggingFaceStorageWriter(save_distributed=True)`: each file has the rank's pieces under their
    whole names, and the offsets of them as JSON in its metadata, under `DCP_SHARDING_INFO`. There is no
    index, and the global shape is stated nowhere: it is the largest end of any piece.

    Args:
        path: The folder, which need not be there.
        of: The weights.
        ranks: How many ranks save.
        shards: Into how many files each, as with `fqn_to_index_mapping`.

    Returns:
        For each weight the files that hold parts of it.
    """
    folder(path)
    held: dict[str, list[str]] = {name: [] for name in of}
    for number, names in enumerate(split(list(of), shards), 1):
        for rank in range(ranks):
            mine = {name: cut[rank] for name in names if rank < len(cut := chunks(of[name], ranks))}
            if not mine:
                continue  # a rank without items writes no file
            file = f"shard-{rank + 1:05d}-model-{number:05d}-of-{shards:05d}.safetensors"
            offsets = {name: {"saved_offsets": list(begin)} for name, (begin, _) in mine.items()}
            metadata = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
            save_file({name: piece for name, (_, piece) in mine.items()}, path / file, metadata=metadata)
            for name in mine:
                held[name].append(file)
    return {name: tuple(files) for name, files in held.items()}


def write_merged(path: Path, of: Tensors, *, ranks: int = 2, shards: int = 2) -> dict[str, tuple[str, ...]]:
    """Writes what `HuggingFaceStorageWriter(enable_consolidation=True)` does: the shards of ranks, merged.

    torch 2.13, checkpoint/_consolidate_hf_safetensors.py: `sharded/` keeps those of the ranks; beside it are
    `model-00001-of-0000N.safetensors`, whose headers have no `__metadata__` and are not padded, and an index.

    Args:
        path: The folder, which need not be there.
        of: The weights.
        ranks: How many ranks save.
        shards: Into how many files they are merged.

    Returns:
        For each weight the merged file that holds it.
    """
    write_hugging_face_shards(path / "sharded", of, ranks=ranks, shards=shards)
    holders: dict[str, str] = {}
    for number, names in enumerate(split(list(of), shards), 1):
        file, header, data = f"model-{number:05d}-of-{shards:05d}.safetensors", {}, b""
        for name in names:
            one = of[name].numpy().tobytes()
            place = [len(data), len(data) + len(one)]
            header[name] = {"shape": list(of[name].shape), "dtype": "F32", "data_offsets": place}
            data += one
        packed = json.dumps(header).encode()
        (path / file).write_bytes(len(packed).to_bytes(8, "little") + packed + data)
        holders |= dict.fromkeys(names, file)
    total = sum(one.nbytes for one in of.values())
    index = {"metadata": {"total_size": total}, "weight_map": holders}
    write_json(path / "model.safetensors.index.json", index, end="", sort_keys=False)
    return {name: (file,) for name, file in holders.items()}
