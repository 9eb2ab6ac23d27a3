"""What the ranks of a run have, made up without a run."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import torch
from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from marlin_ckpt.distributed.planning.describing import ABSENT, Chunk, Entry, Own, Table

_DTYPES = ("float32", "bfloat16", "int64")


class Made(NamedTuple):
    """A world: what rank 0 has, and what all have."""

    table: Table
    ranks: list[Own]


def made(seed: int, world_size: int, tensors: int, *, most_rows: int = 9) -> Made:
    """Tensors of which each is whole at some ranks, or split by rows or columns, or over pairs of ranks."""
    chance = random.Random(seed)
    have: list[dict[Entry, Chunk]] = [{} for _ in range(world_size)]
    for number in range(tensors):
        dimensions = chance.choice([0, 1, 2, 2, 2, 3])
        shape = tuple(
            chance.randint(0 if chance.random() < 0.05 else 1, most_rows) for _ in range(dimensions)
        )
        entry = Entry(f"layer.{number}", chance.choice(_DTYPES), shape)
        replicas = chance.choice([1, world_size, 2 if world_size % 2 == 0 else 1])
        shards = 1 if not shape or 0 in shape else world_size // replicas
        for rank in range(world_size):
            if shards == 1 and replicas == 1 and rank != number % world_size:
                continue
            if (chunk := _part(shape, chance_axis(number, shape), rank % shards, shards)) is not None:
                have[rank][entry] = chunk
    return described(have)


def chance_axis(number: int, shape: tuple[int, ...]) -> int:
    return number % len(shape) if shape else 0


def _part(shape: tuple[int, ...], axis: int, at: int, shards: int) -> Chunk | None:
    offsets, sizes = [0] * len(shape), list(shape)
    if shards > 1:
        step = -(-shape[axis] // shards)
        offsets[axis] = min(at * step, shape[axis])
        sizes[axis] = min(step, shape[axis] - offsets[axis])
        if sizes[axis] == 0:
            return None
    return Chunk(tuple(offsets), tuple(sizes))


def described(have: list[dict[Entry, Chunk]]) -> Made:
    """What ranks send that have these chunks."""
    table = Table(tuple(have[0]), frozenset({"v"}), {})
    wide = max((len(one.shape) for one in table.entries), default=0) + 1
    ranks = []
    for rank, own in enumerate(have):
        chunks = np.zeros((len(table.entries), 2, wide), np.int64)
        for number, entry in enumerate(table.entries):
            if entry in own:
                chunks[number, :, 1 : len(entry.shape) + 1] = own[entry]
            else:
                chunks[number, 1, 0] = ABSENT
        extras = [(entry, chunk) for entry, chunk in own.items() if entry not in have[0]]
        values = {f"v.{rank}": 600 + rank} if rank else {"v": 500}
        paths = {name: tuple(name.split(".")) for name in [*values, *(one.name for one, _ in extras)]}
        ranks.append(Own(chunks, extras, values, paths, {}))
    return Made(table, ranks)


def by_stock(have: Made, *, lowest: bool = True) -> Metadata:
    """What stock's own functions make of it."""
    plans = []
    for own in have.ranks:
        there = [
            (entry, Chunk(*(tuple(map(int, one[1 : len(entry.shape) + 1])) for one in chunk)))
            for entry, chunk in zip(have.table.entries, own.chunks, strict=True)
            if chunk[1, 0] != ABSENT
        ]
        items = [_item(*one) for one in [*there, *own.extras]]
        items += [WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO) for name in own.values]
        plans.append(SavePlan(items))
    _, found = create_default_global_save_plan(dedup_save_plans(plans, lowest))
    return found


def _item(entry: Entry, chunk: Chunk) -> WriteItem:
    part = ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes))
    data = TensorWriteData(part, TensorProperties(getattr(torch, entry.dtype)), torch.Size(entry.shape))
    return WriteItem(MetadataIndex(entry.name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)
