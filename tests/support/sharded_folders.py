"""Sharded checkpoints that are made by hand: the shards by our functions, the metadata by torch's classes."""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as values
from torch.distributed.checkpoint.filesystem import _StorageInfo

from marlin_ckpt.distributed.flat import KINDS, flatten
from marlin_ckpt.formats.manifest import Manifest, Sharded
from marlin_ckpt.formats.shards.items import Item, ShardAbout, TensorItem, ValueItem
from marlin_ckpt.formats.shards.planning import plan_shard
from marlin_ckpt.formats.shards.writer import write_shard
from marlin_ckpt.formats.zip.state_dict import tensor_pickle
from marlin_ckpt.naming import MANIFEST
from tests.support.folder_checkpoints import about
from tests.support.memory_store import MemoryTarget
from tests.support.shards import memory_of, saved


def state_of(seed: int = 0, **more: Any) -> dict[str, Any]:
    """The three states of a run that has made a step with Adam."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(40, 300), torch.nn.BatchNorm1d(300))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(8, 40)).square().sum().backward()
    optimizer.step()
    trainer = {"epoch": seed, "optimizers": [optimizer.state_dict()], "ranks": {"0": {"rng": seed}}, **more}
    return {
        "module_interface_state": model.state_dict(),
        "trainer_state": trainer,
        "trainer_backend_state": {},
    }


def write(
    path: Path,
    state: dict[str, Any] | None = None,
    *,
    ranks: int = 2,
    save_id: str = "5f0c",
    index: int = 500,
    manifest: Manifest | None = None,
    kinds: Any = None,
) -> Path:
    """Writes a folder; tensors are cut in rows, all else is of rank 0, `kinds` in place of the true ones."""
    flat = flatten(state_of(index) if state is None else state)
    described: dict[str, Any] = {}
    own: list[list[tuple[values.MetadataIndex, Item, memoryview]]] = [[] for _ in range(ranks)]
    leaves = {**flat.values, **({KINDS: kinds or flat.kinds} if kinds or flat.kinds else {})}
    for name, value in leaves.items():
        described[name] = values.BytesStorageMetadata()
        own[0].append((values.MetadataIndex(name), ValueItem(saved(value)), memoryview(b"")))
    for name, tensor in flat.tensors.items():
        chunks, at = [], 0
        parts = torch.chunk(tensor, ranks) if tensor.dim() and len(tensor) >= ranks else (tensor,)
        for rank, part in enumerate(parts):
            offsets = torch.Size((at, *(0 for _ in tensor.shape[1:])) if tensor.dim() else ())
            chunks.append(values.ChunkStorageMetadata(offsets, part.size()))
            item = TensorItem(tensor_pickle(str(tensor.dtype)[6:], tuple(part.shape)), part.nbytes)
            found = memory_of(part.contiguous()) if part.numel() else memoryview(b"")
            own[rank].append((values.MetadataIndex(name, offsets), item, found))
            at += len(part) if tensor.dim() else 0
        properties = values.TensorProperties.create_from_tensor(tensor)
        described[name] = values.TensorStorageMetadata(properties, tensor.size(), chunks)
    path.mkdir(parents=True)
    (path / MANIFEST).parent.mkdir()
    stored: dict[Any, Any] = {}
    for rank, each in enumerate(own):
        if not each:
            continue
        name, target = f"__{rank}_0.distcp", MemoryTarget()
        items = [item for _, item, _ in each]
        data = (view for _, item, view in each if isinstance(item, TensorItem))
        write_shard(target, items, data, ShardAbout(save_id, rank))
        (path / name).write_bytes(target.data)
        for (at_, _, _), place in zip(each, plan_shard(items).places, strict=True):
            stored[at_] = _StorageInfo(name, place.start, place.size_bytes)
    metadata = values.Metadata(described, dict(flat.paths), stored)
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    write_manifest(path, manifest or about(index), Sharded(save_id, ranks))
    return path


def write_manifest(path: Path, manifest: Manifest, sharded: Sharded | None) -> None:
    """Lists what is there in a manifest."""
    records = [_listed(one) for one in sorted(path.iterdir()) if one.is_file()]
    own = replace(manifest, layout="sharded", sharded=sharded, records=records)
    (path / MANIFEST).write_bytes(own.to_json())


def _listed(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"name": file.name, "size": len(data), "crc32": zlib.crc32(data)}


def loaded_by_torch(path: Path, names: Iterable[str] = ()) -> dict[str, Any]:
    """What stock DCP makes of a folder in one process, as one nested state."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    del names
    whole = path.with_name(f"{path.name}.whole.pt")
    dcp_to_torch_save(path, whole)
    found: dict[str, Any] = torch.load(io.BytesIO(whole.read_bytes()), weights_only=False)
    whole.unlink()
    return found
