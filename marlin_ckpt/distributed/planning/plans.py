"""Who writes what of a sharded checkpoint, and where: planned once, and used again while nothing changes.

The first save of a state gathers compact descriptions at rank 0, which decides for all. Later saves of the
same state compare one number. What a plan depends on is names, dtypes, shapes, placements and, of values, the
rounded lengths of their files; so `.metadata` is part of it, and is the same at each save.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from marlin_ckpt.distributed.failures import share, together
from marlin_ckpt.distributed.flat import KINDS, Flat, Kinds, Path, beyond, local_of
from marlin_ckpt.distributed.planning.assigning import World, Written, assign
from marlin_ckpt.distributed.planning.describing import Own, Table, describe, entries_of, entry_of, key_of
from marlin_ckpt.distributed.planning.laying_out import lay_out
from marlin_ckpt.distributed.planning.metadata_bytes import to_pickle
from marlin_ckpt.distributed.planning.value_files import value_file
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.shards.statistics import Tensors, name_of
from marlin_ckpt.formats.shards.items import Item, ShardPlan, TensorItem, ValueItem
from marlin_ckpt.formats.shards.planning import plan_shard
from marlin_ckpt.formats.shards.slots import slot_bytes
from marlin_ckpt.formats.zip.state_dict import tensor_pickle
from marlin_ckpt.formats.zip.structures import ALIGNMENT

_MOST_KEPT = 4  # states that alternate: a model and its average, say
_NUMBERS = 1 << 62  # `Ranks.are_alike` compares 63 bits


@dataclass(frozen=True, slots=True)
class Plan:
    """What this rank writes, and at rank 0 what all write.

    Attributes:
        number: of the plan, the same at all ranks, and no other plan's.
        tensors: the names of the tensors that this rank writes its part of, in the order of its shard.
        items: these, as the shard has them.
        values: the names of the values that follow them.
        slots: the lengths that the files of these are padded to.
        shard: where everything is in the shard of this rank; None if it writes nothing.
        kinds: of rank 0's containers.
        size_bytes: of all shards together, and `.metadata`.
        metadata: the bytes of `.metadata`, at rank 0.
        written: the tensors that all ranks write, at rank 0.
        alignment: as for `plan_shard`.
    """

    number: int
    tensors: tuple[str, ...]
    items: tuple[TensorItem, ...]
    values: tuple[str, ...]
    slots: tuple[int, ...]
    shard: ShardPlan | None
    kinds: Kinds
    size_bytes: int
    metadata: bytes = b""
    written: Tensors | None = None
    alignment: int = ALIGNMENT


class Planned(NamedTuple):
    """A plan, and what of this save it is for.

    Attributes:
        flat: what this rank has.
        plan: the plan.
        files: of the values that this rank writes, in their order.
    """

    flat: Flat
    plan: Plan
    files: tuple[bytes, ...]


class _Told(NamedTuple):
    """What rank 0 has decided.

    Attributes:
        number: of the plan.
        common: who writes which of the table's tensors: a row of bits for each rank.
        others: the names of the other tensors, and of the values, that each rank writes.
        size_bytes: of all that is written.
        alignment: as for `plan_shard`.
    """

    number: int
    common: np.ndarray
    others: list[tuple[list[str], tuple[str, ...]]]
    size_bytes: int
    alignment: int


class SavePlans:
    """The plans of one saver. Each has its own, since two savers at different ranks could be mistaken."""

    def __init__(self) -> None:
        self._plans: dict[tuple[Any, ...], Plan] = {}

    def drop(self) -> None:
        """Forgets all plans, after a failure."""
        self._plans.clear()

    def plan(self, flattened: Callable[[], Flat], ranks: Ranks, alignment: int = ALIGNMENT) -> Planned:
        """Plans a save; all ranks call it.

        Where all of them know the plan and none fails, they compare three numbers once.

        Args:
            flattened: makes what this rank has; it may raise, and does not communicate.
            ranks: of the run.
            alignment: as for `plan_shard`; that of rank 0 counts.

        Raises:
            UnsavableStateError: a value cannot be pickled, a tensor is a partial sum, or what the ranks have
                is not one state. It is raised at all ranks, where it was found at one.
            RankError: a rank has ended, or did not answer.
        """
        failed: Exception | None = None
        flat = Flat()
        key: tuple[Any, ...] = ()
        found: Planned | None = None
        try:
            flat = flattened()
            key = (alignment, *key_of(flat))
            found = self._known(key, flat, ranks)
        except Exception as error:  # noqa: BLE001 - raised again, here and at the other ranks
            failed = error
        try:
            number = found.plan.number if found else 0
            have_failed, greatest, least = ranks.most(failed is not None, number, -number)
            if have_failed:
                share(ranks, failed)
        finally:
            del failed  # its frames would hold the state
        if found is not None and greatest == -least:
            self._plans[key] = self._plans.pop(key)  # the one that was used last is kept longest
            return found
        planned = _plan(flat, ranks, alignment)
        while len(self._plans) >= _MOST_KEPT:
            del self._plans[next(iter(self._plans))]
        self._plans[key] = planned.plan
        return planned

    def _known(self, key: tuple[Any, ...], flat: Flat, ranks: Ranks) -> Planned | None:
        """A plan that was made for the same, and whose slots have room for the values."""
        plan = self._plans.get(key)
        if plan is None:
            return None
        values = _values_of(flat, ranks.rank, plan.kinds)
        kinds = _kinds_name(ranks.rank)
        if (kinds in values) != (kinds in plan.values) or not values.keys() >= set(plan.values):
            return None
        files = tuple(value_file(values[name]) for name in plan.values)
        fits = all(slot_bytes(len(one)) <= slot for one, slot in zip(files, plan.slots, strict=True))
        return Planned(flat, plan, files) if fits else None


def _kinds_name(rank: int) -> str:
    return f"{KINDS}.{rank}" if rank else KINDS


def _values_of(flat: Flat, rank: int, common: Kinds) -> dict[str, Any]:
    """The values of a rank: its own and, if there are any to be told, the kinds of its containers."""
    kinds = beyond(flat.kinds, common) if rank else flat.kinds
    return {**flat.values, **({_kinds_name(rank): kinds} if kinds else {})}


def _plan(flat: Flat, ranks: Ranks, alignment: int) -> Planned:
    """Plans a save anew."""
    table = ranks.told(together(ranks, lambda: _table(flat) if ranks.is_main else None))
    own, files = together(ranks, lambda: _described(flat, table, ranks.rank))
    gathered = ranks.gathered(own.to_bytes())
    decided = together(ranks, lambda: _decided(table, gathered, flat.paths, alignment) if gathered else None)
    told = ranks.told(decided and decided[0])
    plan = _of_this_rank(told, flat, table, files, ranks.rank)
    if decided is not None:
        plan = replace(plan, metadata=decided[1], written=decided[2])
    return Planned(flat, plan, tuple(files[name] for name in plan.values))


def _table(flat: Flat) -> Table:
    return Table(entries_of(flat), frozenset(flat.values), flat.kinds)


def _described(flat: Flat, table: Table, rank: int) -> tuple[Own, dict[str, bytes]]:
    """What this rank has, and the files of the values that it may have to write."""
    values = _values_of(flat, rank, table.kinds)
    files = {name: value_file(one) for name, one in values.items() if not rank or name not in table.values}
    return describe(flat, table, {name: len(one) for name, one in files.items()}), files


def _decided(
    table: Table, gathered: Iterable[bytes], paths: Mapping[str, Path], alignment: int
) -> tuple[_Told, bytes, Tensors]:
    """What each rank writes, `.metadata`, and the tensors that this is."""
    world = assign(table, [Own.from_bytes(one) for one in gathered])
    written = world.by_rank()
    layout = lay_out(world, written, alignment)
    names = {**paths, KINDS: (KINDS,), **world.paths}
    there = {*(one.name for one in world.entries), *world.values, *world.ties}
    names = {name: path for name, path in names.items() if name in there}
    metadata = to_pickle(world, layout, names)
    size = sum(one.size_bytes for one in layout.shards if one is not None) + len(metadata)
    told = _told(world, written, len(table.entries), size, alignment)
    return told, metadata, _tensors(world, written, names)


def _tensors(world: World, written: Iterable[Written], paths: Mapping[str, Path]) -> Tensors:
    numbers = {one.name: number for number, one in enumerate(world.entries)}
    numbers |= {name: numbers[first] for name, first in world.ties.items()}
    return Tensors(
        [one.dtype for one in world.entries],
        [(name_of(path), numbers[name]) for name, path in paths.items() if name in numbers],
        [world.rows.entry[one.rows] for one in written],
    )


def _told(world: World, written: Iterable[Written], common: int, size_bytes: int, alignment: int) -> _Told:
    is_writing = np.zeros((world.world_size, common), bool)
    rows = world.rows
    in_common = rows.entry < common
    is_writing[rows.rank[in_common], rows.entry[in_common]] = True
    others = [
        ([world.entries[number].name for number in rows.entry[one.rows] if number >= common], one.values)
        for one in written
    ]
    number = secrets.randbelow(_NUMBERS) + 1
    return _Told(number, np.packbits(is_writing, axis=1), others, size_bytes, alignment)


def _of_this_rank(told: _Told, flat: Flat, table: Table, files: Mapping[str, bytes], rank: int) -> Plan:
    others, values = told.others[rank]
    is_writing = np.unpackbits(told.common[rank], count=len(table.entries))
    tensors = (*(table.entries[number].name for number in np.flatnonzero(is_writing)), *others)
    items = tuple(_item(name, flat.tensors[name]) for name in tensors)
    slots = tuple(slot_bytes(len(files[name])) for name in values)
    whole: list[Item] = [*items, *(ValueItem(b"", slot) for slot in slots)]
    shard = plan_shard(whole, told.alignment) if whole else None
    own = (tensors, items, values, slots, shard)
    return Plan(told.number, *own, table.kinds, told.size_bytes, alignment=told.alignment)


def _item(name: str, tensor: torch.Tensor) -> TensorItem:
    entry, local = entry_of(name, tensor), local_of(tensor)
    # Of a tensor without elements `describing` says that a rank has all of it, whatever its part is.
    shape = entry.shape if 0 in entry.shape else tuple(local.shape)
    return TensorItem(tensor_pickle(entry.dtype, shape), local.nbytes)
