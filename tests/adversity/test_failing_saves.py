"""A save fails at one of the ranks that save by a checkpointer: all decide alike, and the next one works."""

from __future__ import annotations

import itertools
import json

import pytest

import marlin_ckpt
from tests.support import ranks

_WORK = "tests.support.failing_saves"
_REFUSED = [
    case
    for case in itertools.product(("sharded", "file"), (False, True), ("warn", "raise"), (1, 0))
    if case[0] == "sharded" or case[-1] == 0  # a file is written by rank 0 alone
]


def test_a_full_or_broken_disk_at_one_rank_fails_the_save_at_all_and_the_next_one_is_whole(directory, cases):
    chosen = _REFUSED[:: cases(3, 1)]
    found = ranks.run(2, f"{_WORK}:refuse", directory=directory, cases=chosen)

    for rank, each in enumerate(found):
        for (layout, is_async, on_error, by), (said, stands, passed_over) in zip(chosen, each, strict=True):
            extension = "dcp" if layout == "sharded" else "pt"
            assert (said[0], said[2]) == (f"m_1.{extension}", f"m_3.{extension}")
            assert stands == [1, 3]
            error = said[1] if on_error == "raise" else passed_over[0]
            reason = "No space left on device" if is_async else "Input/output error"
            where = f"m_2.dcp/__{by}_0.distcp" if layout == "sharded" else "m_2.pt"
            assert f"cannot write: {reason}: {directory}/" in error
            assert error.endswith(where)
            is_told = f"rank {by}: " in error
            assert is_told == (rank != by and (layout == "sharded" or not is_async)), error
            if on_error == "warn":
                assert said[1] == (f"m_2.{extension}" if is_async else "None")
            assert len(passed_over) == (on_error == "warn")


def test_ranks_that_fail_at_once_raise_one_error_and_room_is_made_for_all(directory):
    found = ranks.run(2, f"{_WORK}:fail_unlike", directory=directory)

    for rank, one in enumerate(found):
        said, error = one["unlike"]
        assert said == "None"
        assert (
            error.removeprefix("rank 0: ")
            == f"cannot write: Input/output error: {directory}/m_1.dcp/__0_0.distcp"
        )
        foreign = "KeyError: 'none of ours'" if rank else "RankError: rank 1: KeyError: 'none of ours'"
        assert one["foreign"] == one["foreign behind"] == foreign  # which no rank passes over
        assert one["next"] == ["m_4.dcp", [4]]
        assert one["room 0"] == ["m_13.dcp", ["m_13.dcp", "m_4.dcp"]]
        assert one["room 1"] == ["m_23.dcp", ["m_13.dcp", "m_23.dcp", "m_4.dcp"]]


def test_a_rank_that_was_stopped_for_longer_than_two_saves_waited_saves_with_the_others_again(
    directory, cases
):
    kinds = dict([("sync", {}), ("async", {"async_save": True})][: cases(1, 2)])
    found = ranks.run(3, f"{_WORK}:stop_one", directory=directory, kinds=kinds)

    for rank, one in enumerate(found):
        for errors, said, stands in one.values():
            assert len(errors) == (1 if rank == 1 else 2)
            assert rank == 1 or set(errors) == {"rank 1 has ended, or did not answer within 1.5 s"}
            assert (said, stands) == ("m_4.dcp", [1, 4])


@pytest.mark.parametrize("behind", [False, True])
def test_a_rank_that_is_killed_while_all_save_is_named_at_once_at_every_later_call(directory, behind):
    ended = ranks.Run(3, f"{_WORK}:lose_one", directory=directory, behind=behind).ended()

    assert [one.code for one in ended] == [3, -9, 3]
    lost = "RankError: rank 1 has ended"
    for one in (ended[0], ended[2]):
        assert json.loads(one.errors) == [
            "m_1.dcp",
            *(["m_2.dcp", lost, lost] if behind else [lost, lost, "None"]),
        ]


def test_a_save_in_the_background_outlives_the_process_group(directory):
    ended = ranks.Run(2, f"{_WORK}:part", directory=directory).ended()

    assert [json.loads(one.errors) for one in ended] == [["m_1.dcp", "m_2.dcp", "None"]] * 2
    assert marlin_ckpt.verify(f"{directory}/m_2.dcp").status is marlin_ckpt.Status.INTACT


def test_ranks_that_save_on_disks_of_their_own_are_refused_at_the_first_save(directory):
    for one in ranks.run(2, f"{_WORK}:see_own", directory=directory):
        assert "this rank does not see the folder that rank 0 has made beside it" in one["said"]
        assert one["there"] == ["0"]


def test_states_that_are_saved_by_turns_are_not_mixed_up_and_one_rank_may_change_its_own(directory):
    found = ranks.run(2, f"{_WORK}:alternate", directory=directory)

    names = [f"one_{number}.dcp" for number in range(1, 9)] + [
        f"other_{number}.dcp" for number in range(1, 7)
    ]
    assert all(one["found"] == {name: int(name[-5]) for name in names} for one in found)
    assert found[1]["mine"] == ["1"]
