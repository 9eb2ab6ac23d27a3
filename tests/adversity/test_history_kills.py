"""What SIGKILL at any step of a training leaves of the history of its directory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import history_kills


@pytest.fixture(scope="module")
def count(cases: Callable[[int, int], int]) -> int:
    return cases(6, 200)


@pytest.fixture(scope="module")
def found(count: int, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return history_kills.kills(tmp_path_factory.mktemp("killed"), count)


def test_the_kills_strike_and_some_of_them_within_a_line(found, count):
    assert found["killed"] >= count
    assert found["torn"]


def test_after_each_kill_the_history_is_whole_and_has_a_line_for_each_save_that_was_reported(found):
    assert found["faults"] == []
