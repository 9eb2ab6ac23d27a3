"""Where everything will be in the shards of all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from marlin_ckpt.distributed.planning.assigning import World, Written
from marlin_ckpt.formats.shards.items import Item, ShardPlan, TensorItem, ValueItem
from marlin_ckpt.formats.shards.planning import plan_shard
from marlin_ckpt.formats.shards.slots import slot_bytes
from marlin_ckpt.formats.zip.state_dict import tensor_pickle
from marlin_ckpt.formats.zip.structures import ALIGNMENT


def shard_name(rank: int) -> str:
    """The name of a rank's file."""
    return f"__{rank}_0.distcp"


class Layout(NamedTuple):
    """Where everything will be.

    Attributes:
        starts: of the files of `torch.save` of the chunks in their shards, one for each of `World.rows`.
        lengths: of these files.
        values: by name: the rank, the offset and the length.
        shards: the plan of each shard; None for a rank that writes nothing.
    """

    starts: np.ndarray
    lengths: np.ndarray
    values: dict[str, tuple[int, int, int]]
    shards: list[ShardPlan | None]


def lay_out(world: World, written: Iterable[Written], alignment: int = ALIGNMENT) -> Layout:
    """Lays out the shards of all ranks; those that are alike once.

    Args:
        world: what all ranks write.
        written: what each does.
        alignment: as for `plan_shard`.
    """
    count = len(world.rows.rank)
    found = Layout(np.zeros(count, np.int64), np.zeros(count, np.int64), {}, [])
    dtypes = {name: number for number, name in enumerate(dict.fromkeys(one.dtype for one in world.entries))}
    dtype = np.array([dtypes[one.dtype] for one in world.entries], np.int16)
    dimensions = np.array([len(one.shape) for one in world.entries], np.int16)
    known: dict[tuple[bytes, ...], tuple[ShardPlan, np.ndarray]] = {}
    for rank, (rows, values) in enumerate(written):
        if not len(rows) and not values:
            found.shards.append(None)
            continue
        slots = [slot_bytes(world.values[name][1]) for name in values]
        numbers = world.rows.entry[rows]
        alike = (dtype[numbers], dimensions[numbers], world.rows.sizes[rows], np.array(slots))
        key = tuple(one.tobytes() for one in alike)
        if key not in known:
            items = [*_items(world, rows), *(ValueItem(b"", slot) for slot in slots)]
            plan = plan_shard(items, alignment)
            known[key] = plan, np.array([one[:2] for one in plan.places], np.int64).reshape(-1, 2)
        plan, places = known[key]
        found.starts[rows], found.lengths[rows] = places[: len(rows)].T
        for name, (start, length) in zip(values, places[len(rows) :].tolist(), strict=True):
            found.values[name] = rank, start, length
        found.shards.append(plan)
    return found


def _items(world: World, rows: np.ndarray) -> Iterator[Item]:
    sizes, nbytes = world.rows.sizes[rows].tolist(), world.rows.nbytes[rows].tolist()
    for number, size, length in zip(world.rows.entry[rows].tolist(), sizes, nbytes, strict=True):
        entry = world.entries[number]
        yield TensorItem(tensor_pickle(entry.dtype, tuple(size[: len(entry.shape)])), length)
