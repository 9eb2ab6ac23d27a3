"""kill -9 while a folder is saved: the old one or the new one is there, never half of one, and no litter."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.folders import REPOSITORY, SUPPORT


def kill(directory: str, way: str, how: str, number: int) -> list[dict]:
    command = [sys.executable, SUPPORT / "folder_kills.py", directory, way, how, str(number)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, check=True, capture_output=True, timeout=550, env=environment)
    return json.loads(done.stdout)


def faults(results: list[dict]) -> list[tuple[str, str]]:
    return [(one["at"], fault) for one in results for fault in one["faults"]]


@pytest.mark.parametrize("how", ["exchange", "renames"])
@pytest.mark.parametrize("way", ["first", "calls"])
def test_a_kill_at_any_system_call_leaves_the_old_folder_or_the_new_one_whole(directory, way, how, cases):
    step = cases(5, 1)
    results = kill(directory, way, how, step)
    assert faults(results) == []
    assert results[-1]["ended"] == 0
    assert results[-1]["is_new"]
    assert not results[0]["is_new"]
    assert sum(one["littered"] for one in results) > 30 / step
    assert len(results) > 60 / step
    if step == 1:  # without an exchange the name is nobody's for an instant; the next start gives it back
        is_missed = any(one["found"] == -1 for one in results)
        assert is_missed == (way == "first" or how == "renames")


@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_a_kill_at_any_instant_leaves_the_last_folder_that_was_reported_or_the_next(directory, how, cases):
    results = kill(directory, "instants", how, cases(10, 1000))
    assert faults(results) == []
    assert any(one["littered"] for one in results)
