"""What SIGKILL at a random moment of a saving loop leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 300


def run_killed_loop(repository: Path, directory: Path, kills: int, kind: str) -> dict:
    command = [sys.executable, str(repository / "tests" / "saving_loop.py"), str(directory), str(kills), kind]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """300 loops of 20 MB saves, each killed at a random moment after its first save."""
    repository = Path(__file__).parent.parent
    return run_killed_loop(repository, tmp_path_factory.mktemp("killed"), KILLS, "marlin")


def test_most_of_the_300_kills_strike_in_the_middle_of_a_save(killed):
    assert killed["kills"] == KILLS
    assert killed["in_mid_save"] > KILLS / 2


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


def test_the_same_kills_tear_the_newest_file_of_a_plain_torch_save(repository, tmp_path):
    # Shows that the loop and its checks can fail.
    found = run_killed_loop(repository, tmp_path, 12, "plain")
    assert found["kills"] == 12
    assert found["newest"]
