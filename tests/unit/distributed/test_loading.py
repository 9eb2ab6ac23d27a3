"""Ranks that load together: all of them load the same checkpoint, or raise the same."""

from __future__ import annotations

import pytest

from tests.support import ranks

_WORK = "tests.support.loading_damage"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("together")
    ranks.run(2, f"{_WORK}:save_two", place=str(found / "saved"))
    return found


_WEIGHT = "module_interface_state.weight"
# What is said of each damage, and whether one rank alone sees it.
_SAID = {
    "a flip that only rank 1 reads": (f"the CRC of tensor {_WEIGHT} does not hold", 1),
    "a flip that only rank 0 reads": (f"the CRC of tensor {_WEIGHT} does not hold", 0),
    "a shard that ends early": ("__1_0.distcp has 1,000,000 bytes and not", None),
    "no shard": ("__1_0.distcp is missing", None),
    "a shard of another save": ("__1_0.distcp is of another save", 1),
    "metadata": ("the CRC of .metadata does not hold", None),
    "no metadata": (".metadata is missing", None),
    "manifest": ("the manifest does not hold", None),
}


def test_what_one_rank_finds_damaged_all_pass_over_with_the_reason(place):
    found = ranks.run(2, f"{_WORK}:fall_back", place=str(place))

    for rank, cases in enumerate(found):
        own = {str(rank): [[rank] * 5, [2, rank]]}
        assert cases.pop("none") == [2, True, [2, 2, 2], own, [], []]
        assert cases.keys() == _SAID.keys()
        for what, (said, by) in _SAID.items():
            epoch, is_right, bias, of_ranks, messages, refusal = cases[what]
            assert (epoch, is_right, bias) == (1, True, [1, 1, 1])
            assert of_ranks == {str(rank): [[rank] * 5, [1, rank]]}
            prefix = "" if by in (None, rank) else f"rank {by}: "
            kind, message, hint, *tensors = refusal
            assert kind == "CorruptCheckpointError"
            assert message.startswith(prefix + said)
            assert f"`marlin-ckpt verify {message.partition('/')[1]}" in hint
            assert _WEIGHT in tensors or said[0] in ".t"
            # Rank 0 alone says it, for all.
            assert len(messages) == (1 if rank == 0 else 0)
            assert all(said in one for one in messages)


def test_what_stops_one_rank_stops_all_with_the_same_error(place):
    found = ranks.run(2, f"{_WORK}:stop", place=str(place / "saved"))

    for rank, (denied_0, denied_1, bad_blocks, afterwards) in enumerate(found):
        assert denied_0 == f"StorageError: {'rank 0: ' * (rank == 1)}cannot read: denied: x"
        assert denied_1 == f"StorageError: {'rank 1: ' * (rank == 0)}cannot read: denied: x"
        assert bad_blocks == f"StorageError: {'rank 1: ' * (rank == 0)}cannot read: bad block: x"
        assert afterwards == 2


def test_a_load_takes_little_memory_beside_the_live_tensors(tmp_path):
    for found in ranks.run(2, f"{_WORK}:peak", place=str(tmp_path)):
        assert found["rows"] < 32
        assert found["columns"] < 32
