"""What the ranks of a run agree on, and how a failure at one reaches all."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest

from marlin_ckpt.distributed.failures import together, told_by_main
from marlin_ckpt.distributed.loading import agreed
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import MarlinError
from tests.support import ranks
from tests.support.agreeing_ranks import LENGTHS_TOLD

_WORK = "tests.support.agreeing_ranks"


def test_three_ranks_agree_on_numbers_and_values():
    found = ranks.run(3, f"{_WORK}:agree")

    for rank, one in enumerate(found):
        assert one["most"] == [2, 0]
        assert one["least"] == [0]
        assert one["total"] == [1.5, 3.0]
        assert (one["alike"], one["differ"]) == (True, False)
        assert one["told"] == [{"by": 0}, "x"]
        assert one["lengths"] == LENGTHS_TOLD
        assert one["gathered"] == ([0, 1, 2] if rank == 0 else [])


def test_one_rank_alone_agrees_with_itself():
    alone = Ranks()

    assert (alone.rank, alone.world_size, alone.is_main) == (0, 1, True)
    assert alone.most(3, 4) == [3, 4]
    assert alone.are_alike(3)
    assert alone.told("x") == "x"
    assert alone.gathered(b"y") == [b"y"]
    assert together(alone, lambda: 5) == 5


@pytest.mark.parametrize("failing", [[0], [1], [0, 2]])
def test_an_error_at_one_rank_is_raised_at_all_and_they_go_on_together(failing):
    found = ranks.run(3, f"{_WORK}:fail_at", failing=failing, kind="ours")

    for rank, (kind, text, afterwards) in enumerate(found):
        assert kind == "CorruptCheckpointError"
        where = "" if rank == failing[0] else f"rank {failing[0]}: "
        assert text == f"{where}the CRC does not hold: a.dcp"
        assert afterwards == rank


def test_an_error_that_is_not_ours_names_its_rank_at_the_others():
    found = ranks.run(2, f"{_WORK}:fail_at", failing=[1], kind="other")

    assert [one[0] for one in found] == ["RankError", "KeyError"]
    assert found[0][1] == "rank 1: KeyError: 'weight'"


def test_the_others_notice_a_rank_that_is_killed():
    run = ranks.Run(3, f"{_WORK}:lose_one", lost=1)

    ended = run.ended(60)

    assert [one.code for one in ended] == [3, -9, 3]
    for one in (ended[0], ended[2]):
        assert one.errors.count("'rank 1 has ended'") == 5  # at once: none waits for it


@pytest.mark.parametrize("call", [together, told_by_main, agreed])
def test_an_error_keeps_nothing_alive_of_what_was_worked_on(call):
    def fail(state) -> None:
        def work() -> None:
            raise MarlinError(f"{len(state)} parts")

        with contextlib.suppress(MarlinError):
            call(Ranks.alone(), work)

    state = {1, 2}
    alive = weakref.ref(state)
    gc.disable()
    try:
        fail(state)
        del state
        assert alive() is None
    finally:
        gc.enable()


def test_the_others_notice_the_death_of_the_one_that_has_the_store():
    ended = ranks.Run(3, f"{_WORK}:lose_main").ended(60)

    assert [one.code for one in ended] == [-9, 3, 3]
    assert all(one.result == ["rank 0 has ended"] * 2 for one in ended[1:])


def test_rank_0_says_for_whom_all_wait():
    assert ranks.run(2, f"{_WORK}:come_late") == [["Waiting for rank 1, up to 600 s."], []]
