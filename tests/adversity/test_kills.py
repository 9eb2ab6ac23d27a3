"""What SIGKILL at a random moment of a saving loop leaves behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

import pytest

from tests.support import warm
from tests.support.folders import REPOSITORY

MOST_PLAIN_KILLS = 60  # until one tears a file


@pytest.fixture(scope="module")
def kills(cases: Callable[[int, int], int]) -> int:
    """How often each way of saving is killed; the half of it while one name is saved over."""
    return cases(16, 250)


@pytest.fixture(scope="module")
def found(kills: int, cases: Callable[[int, int], int], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What was found of loops of 50 MB saves, each killed at a random moment after its first save."""
    repository = REPOSITORY
    megabytes = cases(10, 50)
    campaigns = [f"direct={kills}", f"buffered={kills}", f"plain={MOST_PLAIN_KILLS}"]
    command = [sys.executable, str(repository / "tests" / "support" / "saving_loop.py")]
    command += [str(tmp_path_factory.mktemp("killed")), str(megabytes), *campaigns]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = warm.run(command, env=environment, capture_output=True, timeout=1200)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(params=["direct", "buffered"])
def killed(request, found) -> dict:
    """What was found of one way of saving."""
    if request.param == "direct" and not found["direct"]["is_direct"]:
        pytest.skip("the temporary directory is in memory or its file system has no O_DIRECT")
    return found[request.param]


def test_kills_strike_in_the_middle_of_a_save_most_of_them_where_they_are_many(killed, kills, cases):
    assert killed["kills"] == kills
    assert killed["in_mid_save"] >= cases(1, 125)  # the first one certainly does


def test_after_a_kill_the_newest_file_loads_and_is_one_that_was_saved_whole(killed):
    assert killed["newest"] == []


def test_after_a_kill_the_previous_file_is_still_there_and_loads(killed):
    assert killed["previous"] == []


def test_a_save_that_returned_is_still_there_after_a_kill(killed):
    assert killed["lost"] == []


def test_the_first_save_of_the_next_run_removes_what_a_killed_one_left_half_written(killed):
    assert killed["left"] == []


def test_no_run_removes_the_temporary_file_of_another_that_still_writes_it(killed):
    assert killed["touched"] == []
    assert killed["held_save"] == "half of it. half of it. "


def test_the_same_kills_tear_the_newest_file_of_a_plain_torch_save(found):
    # Shows that the loop and its checks can fail.
    assert found["plain"]["newest"]
