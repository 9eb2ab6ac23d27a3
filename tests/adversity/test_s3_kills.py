"""What SIGKILL at a random moment leaves of the saves to an object store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable

import pytest

from tests.support import s3_servers, warm
from tests.support.folders import REPOSITORY, SUPPORT
from tests.support.s3_kills import FOREIGN


@pytest.fixture(scope="module")
def found(cases: Callable[[int, int], int], s3_endpoint: str) -> list[dict]:
    """What was found of savers of 12 MB, each killed at a random moment after its first save.

    Several save at the same time, each to a prefix of its own: most of the time they wait.
    """
    environment = {**os.environ, **s3_servers.environment(s3_endpoint), "PYTHONPATH": str(REPOSITORY)}
    running = []
    for seed in range(cases(1, 3)):
        url = f"s3://{s3_servers.BUCKET}/{uuid.uuid4().hex}"
        command = [sys.executable, str(SUPPORT / "s3_kills.py"), url, str(cases(10, 100)), "12", str(seed)]
        running.append(
            warm.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        said = [one.communicate(timeout=2400) for one in running]
    finally:
        for one in running:
            one.kill()
    assert [one.returncode for one in running] == [0] * len(running), said
    return [json.loads(out) for out, _ in said]


def test_the_kills_strike_and_some_of_them_in_the_middle_of_an_upload(found, cases):
    assert sum(one["kills"] for one in found) == cases(10, 300)
    assert sum(one["orphans"] for one in found) > 0


def test_after_a_kill_every_object_is_one_that_was_saved_whole(found):
    assert [one["broken"] for one in found if one["broken"]] == []


def test_a_save_that_returned_is_still_there_after_a_kill(found):
    assert [one["lost"] for one in found if one["lost"]] == []


def test_the_next_run_ends_the_uploads_of_a_killed_one_and_no_others(found):
    for one in found:
        assert one["left"] == []
        assert one["last"] == 0
        assert one["uploads"] == sorted(FOREIGN)
