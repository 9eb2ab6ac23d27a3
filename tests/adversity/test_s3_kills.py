"""What SIGKILL at a random moment leaves of the saves to an object store."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable

import pytest

from tests.support import s3_servers, warm
from tests.support.folders import REPOSITORY, SUPPORT
from tests.support.s3_kills import FOREIGN


@pytest.fixture(scope="module")
def kills(cases: Callable[[int, int], int]) -> int:
    return cases(10, 300)


@pytest.fixture(scope="module")
def found(kills: int, s3_endpoint: str) -> dict:
    """What was found of savers of 12 MB, each killed at a random moment after its first save."""
    url = f"s3://{s3_servers.BUCKET}/{uuid.uuid4().hex}"
    command = [sys.executable, str(SUPPORT / "s3_kills.py"), url, str(kills), "12"]
    environment = {**os.environ, **s3_servers.environment(s3_endpoint), "PYTHONPATH": str(REPOSITORY)}
    done = warm.run(command, env=environment, capture_output=True, timeout=1200)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_the_kills_strike_and_some_of_them_in_the_middle_of_an_upload(found, kills):
    assert found["kills"] == kills
    assert found["orphans"] > 0


def test_after_a_kill_every_object_is_one_that_was_saved_whole(found):
    assert found["broken"] == []


def test_a_save_that_returned_is_still_there_after_a_kill(found):
    assert found["lost"] == []


def test_the_next_run_ends_the_uploads_of_a_killed_one_and_no_others(found):
    assert found["left"] == []
    assert found["last"] == 0
    assert found["uploads"] == sorted(FOREIGN)
