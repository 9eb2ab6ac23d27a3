"""Who writes what: compared with torch's own planner, and spread over the ranks."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from marlin_ckpt.distributed.planning.assigning import World, assign
from marlin_ckpt.distributed.planning.describing import Chunk, Entry, Own
from marlin_ckpt.distributed.planning.laying_out import Layout, lay_out
from marlin_ckpt.distributed.planning.metadata_bytes import to_pickle
from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.shards.slots import slot_bytes
from tests.support.worlds import Made, by_stock, described, made

_ROWS = Entry("w", "float32", (4, 2))


def _planned(have: Made, **ties: str) -> tuple[World, Layout, Metadata]:
    sent = [Own.from_bytes(one.to_bytes()) for one in have.ranks]
    world = assign(have.table, sent)._replace(ties=ties)
    layout = lay_out(world, world.by_rank())
    names = [*(one.name for one in world.entries), *world.values, *ties]
    paths = {name: (*name.split("."), 3) for name in names}
    data = to_pickle(world, layout, paths)
    assert data == to_pickle(world, layout, paths)
    found = pickle.loads(data)
    assert found.planner_data == paths
    return world, layout, found


def _chunks(one: TensorStorageMetadata) -> list[tuple]:
    return sorted((tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in one.chunks)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 12))
def test_metadata_says_what_torchs_own_planner_would(seed, world_size, tensors):
    have = made(seed, world_size, tensors)
    world, layout, found = _planned(have)
    stock = by_stock(have)

    assert found.state_dict_metadata.keys() == stock.state_dict_metadata.keys()
    for name, one in stock.state_dict_metadata.items():
        ours = found.state_dict_metadata[name]
        assert type(ours) is type(one)
        if isinstance(one, TensorStorageMetadata):
            assert (ours.size, ours.properties) == (one.size, one.properties)
            assert type(ours.size) is torch.Size
            assert _chunks(ours) == _chunks(one)
    _check_places(world, layout, found)


def _check_places(world: World, layout: Layout, found: Metadata) -> None:
    """Each chunk and each value is in one place, none over another, inside of its shard."""
    places = {}
    for index, info in found.storage_data.items():
        one = found.state_dict_metadata[index.fqn]
        if isinstance(one, TensorStorageMetadata):
            chunk = one.chunks[index.index]
            assert chunk.offsets == index.offset
            assert info.length > math.prod(chunk.sizes) * one.properties.dtype.itemsize
        else:
            assert (index.offset, info.length) == (None, slot_bytes(world.values[index.fqn][1]))
        places.setdefault(info.relative_path, []).append((info.offset, info.offset + info.length))
    parts = [one for one in found.state_dict_metadata.values() if isinstance(one, TensorStorageMetadata)]
    assert sum(map(len, places.values())) == sum(len(one.chunks) for one in parts) + len(world.values)
    for rank, shard in enumerate(layout.shards):
        taken = sorted(places.pop(f"__{rank}_0.distcp", []))
        assert bool(taken) == (shard is not None)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(taken))
        assert shard is None or taken[-1][1] < shard.size_bytes
    assert places == {}


def test_a_tied_name_has_the_place_of_the_first():
    have = made(3, 2, 6)
    name = have.table.entries[0].name
    _, _, found = _planned(have, tied=name)

    one = found.state_dict_metadata
    assert one["tied"] == one[name]
    for index, info in found.storage_data.items():
        if index.fqn == name:
            assert found.storage_data[type(index)("tied", index.offset)] == info


def test_a_name_of_one_rank_for_memory_that_another_writes_is_refused():
    """Ranks may have other values there, and the name would get those of the rank that writes."""
    whole = Chunk((0, 0), (4, 2))
    have = described([{_ROWS: whole}] * 2)

    def tied(*ranks: int) -> list[Own]:
        return [
            own._replace(ties={"own": "w"} if rank in ranks else {}) for rank, own in enumerate(have.ranks)
        ]

    with pytest.raises(
        UnsavableStateError, match=r"own is at rank 1 the tensor w, which rank 0 writes"
    ) as found:
        assign(have.table, tied(1))
    assert "tensor.clone()" in found.value.hint
    for ranks in ((0,), (0, 1)):
        assert assign(have.table, tied(*ranks)).ties == {"own": "w"}
    parts = described([{_ROWS: Chunk((0, 0), (2, 2))}, {_ROWS: Chunk((2, 0), (2, 2))}])
    own = parts.ranks[1]._replace(ties={"own": "w"})  # of a DTensor, which is one for all ranks
    assert assign(parts.table, [parts.ranks[0], own]).ties == {"own": "w"}


def test_large_copies_are_spread_by_bytes_and_small_ones_stay_with_the_lowest_rank():
    sizes = [1 << number for number in range(10, 22)]
    whole = {Entry(f"w.{size}", "float32", (size,)): Chunk((0,), (size,)) for size in sizes}
    world, _, _ = _planned(described([whole] * 4))

    load = np.bincount(world.rows.rank, world.rows.nbytes, 4)
    assert load.max() == 4 * sizes[-1]
    assert load.min() > 0
    small = world.rows.nbytes < 64 << 10
    assert set(world.rows.rank[small]) == {0}


def test_a_rank_may_write_nothing():
    one = {Entry("w", "float32", ()): Chunk((), ())}
    have = described([one] * 3)
    have = have._replace(ranks=[own._replace(values={}) for own in have.ranks])

    _, layout, found = _planned(have)

    assert [shard is None for shard in layout.shards] == [False, True, True]
    assert len(found.storage_data) == 1


@pytest.mark.parametrize(
    ("chunks", "why"),
    [
        ([((0, 0), (2, 2)), ((3, 0), (1, 2))], "are not all of it"),
        ([((0, 0), (3, 2)), ((2, 0), (2, 2))], "overlap"),
        ([((0, 0), (4, 2)), ((2, 0), (4, 2))], "overlap"),
        ([((0, 0), (2, 2))], "are not all of it"),
    ],
)
def test_parts_that_are_not_the_whole_are_refused(chunks, why):
    have = described([{_ROWS: Chunk(*one)} for one in chunks])

    with pytest.raises(UnsavableStateError, match=why):
        assign(*have)


def test_another_tensor_of_the_same_name_is_refused():
    other = Entry("w", "float32", (5,))
    for entries in ([_ROWS, other], [other, _ROWS]):
        have = described([{one: Chunk((0,) * len(one.shape), one.shape)} for one in entries])
        with pytest.raises(UnsavableStateError, match="rank 1 has another w"):
            assign(*have)
