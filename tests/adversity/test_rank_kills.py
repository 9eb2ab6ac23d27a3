"""kill -9 of one rank, or of all, while they save: the old checkpoint or the new one is there, whole."""

from __future__ import annotations

import os

import pytest

from tests.support.scripts import found_by

KINDS = ["sharded", "writer", "behind"]  # the last asynchronous, by the checkpointer


@pytest.fixture(scope="module")
def killed(cases):
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    times = {"sharded": cases(4, 120), "writer": cases(2, 60), "behind": cases(3, 120)}
    ours = {kind: times[kind] for kind in KINDS}
    return found_by("rank_kills.py", memory, **ours, stock=cases(3, 60))


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_kill_at_any_moment_the_last_save_that_was_reported_or_the_next_is_there_whole(killed, kind):
    found = killed[kind]
    assert (found["torn"], found["lost"]) == ([], [])
    assert found["durable"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_ranks_that_are_left_end_with_the_same_error_and_the_next_run_clears_up(killed, kind, cases):
    found = killed[kind]
    assert (found["stuck"], found["unlike"], found["left"]) == ([], [], [])
    assert found["survivors"] > 0
    assert found["in_mid_save"] >= cases(0, 10)


def test_the_same_kills_leave_parts_and_mixtures_of_what_torch_saves(killed, cases, record_property):
    found = killed["stock"]
    faults = [fault for *_, name, fault in found["torn"] if name == "m_0.dcp"]
    mixtures = [fault for fault in faults if "mixture" in fault]
    over = [fault for fault in faults if fault not in mixtures]
    record_property(
        "of them unloadable, mixtures", [found["kills"], len(over) - len(mixtures), len(mixtures)]
    )
    assert len(found["torn"]) >= cases(0, 10)
    assert len(faults) >= cases(0, 3)


def test_after_a_rank_was_stopped_at_any_moment_all_go_on_and_the_next_save_works(directory, cases):
    found = found_by("rank_stops.py", directory, stops=cases(1, 40))["stops"]
    assert (found["torn"], found["lost"], found["unlike"]) == ([], [], [])
    assert found["stops"] == cases(1, 40)
    assert found["failed"] >= cases(0, 10)
