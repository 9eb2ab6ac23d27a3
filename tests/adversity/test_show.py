"""Looking into hostile files: nothing in them runs, and it costs little."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.adversity.test_hostile import Session, attack, is_large, is_slow

CALLS = ["show", "show --json", "show --stats", "show --tensors", "show --depth"]
GROUPS = ["looking", "ordinary", "amplified", "swollen"]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, cases: Callable[[int, int], int]) -> Session:
    return attack(tmp_path_factory.mktemp("looking"), GROUPS, CALLS[: cases(2, len(CALLS))], cases(2, 1))


def test_there_are_more_than_40_files_that_lie_about_their_tensors(session):
    assert sum(file["group"] == "looking" for file in session.files.values()) > 40
    assert len(session.calls) >= len(session.files)


def test_nothing_of_any_file_runs(session):
    assert any(event.startswith("os.system") for event in session.control)
    assert session.where(lambda _, call: call["events"]) == {}
    assert session.left == []


def test_every_call_exits_with_0_or_3_but_for_what_is_no_file(session):
    def wrong(file, call):
        codes = (1, 3, 4) if file["loads"] == "error" else (0, 3)
        return call["code"] not in codes and str(call["code"])

    assert session.where(wrong) == {}


def test_no_call_takes_long_or_more_memory_than_the_file_is_long_and_200_mb(session):
    assert session.where(is_slow) == {}
    assert session.where(is_large) == {}


def test_nothing_that_a_terminal_obeys_is_printed(session):
    obeyed = {"\x1b", "\x07", "\x9b"}
    assert session.where(lambda _, call: obeyed & {*call["out"], *call["err"]}) == {}


def test_tensors_that_do_not_fit_are_shown_and_refused_when_they_are_read(session):
    codes = {(call["title"], call["call"]): call["code"] for call in session.calls}
    for title in ("a tensor of 10^18 elements", "negative strides", "an offset beyond the storage"):
        made = {call: codes[title, call] for call in ("show", "show --json") if (title, call) in codes}
        assert made
        assert made.items() <= {"show": 0, "show --json": 3}.items()


def test_a_container_that_holds_itself_is_shown_once(session):
    said = {call["title"]: call["out"] for call in session.calls if call["call"] == "show"}
    assert "what it lies in" in said["a mapping that holds itself"]
