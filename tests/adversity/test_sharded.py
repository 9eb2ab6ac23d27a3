"""Something goes wrong at one rank of a sharded save: all end alike, and the old or the new stands whole."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from marlin_ckpt.directory import leftovers
from tests.support import ranks
from tests.support.sharded_adversity import NAME, what_stands
from tests.support.sharded_phases import AT_ALL, AT_MAIN

_WORK = "tests.support.sharded_adversity"
_KILLS = [
    (phase, killed)
    for phase, killed in itertools.product([*AT_ALL, "within", *AT_MAIN], ([0], [1], [0, 1, 2]))
    if phase not in AT_MAIN or killed == [0]
]


@pytest.mark.parametrize(("code", "by"), [("EIO", 0), ("ENOSPC", 1)])
def test_a_call_that_fails_at_one_rank_fails_the_save_at_all(directory, code, by, cases):
    found = ranks.run(
        2, f"{_WORK}:refuse_calls", 300, directory=directory, code=code, by=by, step=cases(5 - 3 * by, 1)
    )  # fmt: skip

    assert found[0]["failed"] >= 3
    assert found[0]["tried"] > found[0]["failed"]
    assert found[0]["left"] == [NAME]


def test_a_file_system_that_lacks_something_is_saved_to_and_one_that_is_not_shared_is_refused(directory):
    found = ranks.run(2, f"{_WORK}:lack_abilities", directory=directory)

    for one in found:
        assert one["exchange"] == one["flock"] == ["", True]
        assert one["left"] == [NAME]
        for refused in (one["save"], one["start"]):
            assert refused[0] == "StorageError"
            assert refused[1] == "this rank does not see the folder that rank 0 has made beside it"
            assert "one directory that they share" in refused[2]
        assert "shared" not in one
        assert one["own"] == []
        what, *kept, stands = one["cut"]
        assert what.startswith("rank 0 does not see __1_0.distcp as it was written")
        assert kept == [1, 0]  # plans before the failure, and after it
        assert stands
        assert one["late"] == ["", 3]


def test_a_rank_that_is_stopped_is_named_and_the_next_save_has_a_new_group(directory, cases):
    phases = ["voting", "looking", "planned", "writing", "within"][: cases(1, 5)]
    found = ranks.run(3, f"{_WORK}:stop_one", directory=directory, phases=phases)

    for rank, one in enumerate(found):
        assert one.pop("left") == [NAME]
        for error, in_time, _ in one.values():
            assert in_time
            assert rank == 1 or "rank 1 has ended, or did not answer within 1.5 s" in error
    assert all(one[2] == 0 for one in found[0].values())


def test_killed_at_any_phase_the_old_or_the_new_is_there_whole(directory, cases):
    chosen = _KILLS[:: cases(5, 1)]
    for (phase, killed), fresh in itertools.product(chosen, (True, False)[: cases(1, 2)]):
        place = Path(directory, f"{phase}-{killed}-{fresh}")
        place.mkdir()
        how = {"phase": phase, "ranks_killed": killed, "fresh": fresh}
        ended = ranks.Run(3, f"{_WORK}:killed", directory=str(place), **how).ended()

        assert [one.code for one in ended] == [-9 if rank in killed else 3 for rank in range(3)], ended
        errors = {one.errors.strip().splitlines()[-1] for one in ended if one.code == 3}
        names = "rank 0" if killed == [0] else "rank 1"
        assert len(errors) == (killed != [0, 1, 2])
        assert all(names in one and "RankError" in one for one in errors)
        old, new = 0 if fresh else 1, 2
        stands = what_stands(place / NAME, 3)
        assert stands == (new if phase in ("named", "releasing") else old), how
        leftovers.sweep_beside(place / NAME)
        assert os.listdir(place) == [NAME] * bool(stands)
