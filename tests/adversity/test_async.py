"""Runs that save asynchronously and are killed, ended, or let go on for long."""

from __future__ import annotations

import pytest

from tests.support.scripts import found_by

MOST_KILLS = 60  # until one does harm


@pytest.fixture(scope="module")
def killed(cases):
    many = cases(3, 150)
    harming = {"early": MOST_KILLS, "plain": MOST_KILLS}
    return found_by("async_kills.py", direct=many, buffered=many, saver=many, **harming)


@pytest.mark.parametrize("kind", ["direct", "buffered", "saver"])
def test_after_a_kill_at_any_moment_every_checkpoint_that_was_reported_is_there_and_intact(killed, kind):
    found = killed[kind]
    assert (found["torn"], found["lost"]) == ([], [])
    assert found["durable"] >= found["kills"]


@pytest.mark.parametrize("kind", ["direct", "buffered", "saver"])
def test_what_a_kill_leaves_half_written_is_cleared_away_by_the_next_run(killed, kind, cases):
    assert killed[kind]["left"] == []
    assert killed[kind]["in_mid_save"] >= cases(1, 75)  # the first one certainly does


def test_the_same_kills_lose_checkpoints_that_count_as_soon_as_save_returns(killed):
    assert killed["early"]["lost"]


def test_the_same_kills_tear_what_torch_saves_in_a_thread(killed):
    assert killed["plain"]["torn"]


@pytest.fixture(scope="module")
def ended(cases):
    saves = cases(20, 200)
    return found_by(
        "async_ends.py",
        exits=cases(6, 100), daemon=cases(3, 6), succeeding=saves, failing=saves, leaking=cases(20, 40),
    )  # fmt: skip


def test_no_exit_at_any_moment_hangs_loses_what_was_saved_or_hides_a_failure(ended):
    assert ended["exits"]["faults"] == []
    assert ended["exits"]["failing"] >= ended["exits"]["exits"] // 5


def test_the_same_exits_lose_what_a_daemon_thread_saves(ended):
    assert ended["daemon"]["faults"]


@pytest.mark.parametrize("how", ["succeeding", "failing"])
def test_memory_does_not_grow_from_save_to_save(ended, how):
    found = ended[how]
    assert bool(found["failed"]) == (how == "failing")
    assert found["later"] <= 1.05 * found["early"]


def test_memory_that_is_taken_anew_for_each_save_would_be_seen_to_grow(ended):
    assert ended["leaking"]["later"] > 1.05 * ended["leaking"]["early"]
