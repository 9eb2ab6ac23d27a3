"""A checkpoint with which several runs in a row come to a bad end is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from marlin_ckpt.directory import lease, notes
from marlin_ckpt.naming import OWN_DIRECTORY
from marlin_ckpt.operations import starting
from tests.support.folders import visible


@pytest.fixture
def saved(make_checkpointer, make_checkpoint, tmp_path):
    """A directory with three checkpoints, and a function that saves one more."""
    checkpointer = make_checkpointer()

    def save(index: int) -> str:
        return checkpointer.save(make_checkpoint(float(index)), index)

    for index in range(3):
        save(index)
    directory = str(tmp_path / "checkpoints")
    with lease.held(directory):
        pass
    save.args, save.directory = checkpointer.args, directory
    return save


def begins_with(saved, **options) -> tuple[str, tuple[str, ...]]:
    start = starting.decide(saved.args, epochs=9, resume=True, **options)
    return os.path.basename(start.resumes_from), start.skipped


def crash(path: str) -> None:
    with pytest.raises(RuntimeError), notes.counted_start(path):
        raise RuntimeError("out of memory")


def test_after_three_bad_ends_the_one_before_is_taken_and_it_is_said(saved):
    newest = os.path.join(saved.directory, "model_2.pt")
    for _ in range(3):
        assert begins_with(saved) == ("model_2.pt", ())
        crash(newest)
    name, (reason,) = begins_with(saved)
    assert name == "model_1.pt"
    assert reason.startswith(f"{newest}: 3 runs in a row have begun with it and made no newer one")
    assert begins_with(saved, guards=False) == ("model_2.pt", ())


def test_when_the_one_before_fails_as_often_the_one_before_that_is_taken(saved):
    for name in ("model_2.pt", "model_1.pt"):
        for _ in range(3):
            crash(os.path.join(saved.directory, name))
    name, reasons = begins_with(saved)
    assert (name, len(reasons)) == ("model_0.pt", 2)


def test_where_all_have_failed_the_newest_is_taken(saved):
    for name in visible(saved.directory):
        for _ in range(3):
            crash(os.path.join(saved.directory, name))
    assert begins_with(saved) == ("model_2.pt", ())


@pytest.mark.parametrize("end", [None, SystemExit(143)], ids=["finished", "preempted"])
def test_a_run_that_ends_as_it_should_breaks_the_row(saved, end):
    newest = os.path.join(saved.directory, "model_2.pt")
    crash(newest)
    crash(newest)
    try:
        with notes.counted_start(newest):
            if end is not None:
                raise end
    except SystemExit:
        pass
    assert notes.failed_starts(saved.directory) == {}


def test_another_start_between_breaks_the_row(saved):
    newest, other = (os.path.join(saved.directory, f"model_{index}.pt") for index in (2, 1))
    crash(newest)
    crash(newest)
    crash(other)
    crash(newest)
    assert begins_with(saved) == ("model_2.pt", ())


def test_a_file_that_was_saved_anew_is_another_one(saved):
    newest = os.path.join(saved.directory, "model_2.pt")
    for _ in range(3):
        crash(newest)
    saved(2)
    assert begins_with(saved) == ("model_2.pt", ())


def test_a_newer_checkpoint_is_taken_whatever_happened_with_the_older_one(saved):
    for _ in range(3):
        crash(os.path.join(saved.directory, "model_2.pt"))
    saved(3)
    assert begins_with(saved)[0] == "model_3.pt"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"starts": 5}', '{"starts": {"x": "y"}}', "[" * 100000])
def test_notes_that_are_damaged_count_as_none(saved, content):
    Path(saved.directory, OWN_DIRECTORY, "notes.json").write_text(content)
    assert begins_with(saved) == ("model_2.pt", ())
    crash(os.path.join(saved.directory, "model_2.pt"))
    assert list(notes.failed_starts(saved.directory).values()) == [1]


def test_a_start_from_nothing_is_not_counted(saved):
    with pytest.raises(RuntimeError), notes.counted_start(""):
        raise RuntimeError
    assert notes.failed_starts(saved.directory) == {}
