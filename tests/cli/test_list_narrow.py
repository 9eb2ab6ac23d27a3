"""`list` of what there is no room for: metrics on a narrow terminal, and checkpoints that are deeper."""

from __future__ import annotations

import pytest

from marlin_ckpt import CheckpointDirectory
from tests.support.terminal import text_of


def test_a_loss_stays_where_there_is_no_room_for_the_learning_rate(on_terminal, tmp_path):
    with CheckpointDirectory(tmp_path / "runs") as directory:
        for index in range(2):
            metrics = {"learning_rate": 0.00123, "loss": 1 / (index + 3)}
            directory.save({"step": index}, index, metrics=metrics)
    _, shown = on_terminal("list", str(tmp_path / "runs"), columns=44)
    header, *_, hint = text_of(shown).splitlines()
    assert ("loss" in header, "learning_rate" in hint) == (True, True)


def test_an_accuracy_stays_longer_than_the_learning_rate_too(on_terminal, tmp_path):
    with CheckpointDirectory(tmp_path / "runs") as directory:
        for index in range(2):
            metrics = {"learning_rate": 0.00123, "loss": 1 / (index + 3), "val_accuracy": index / 3}
            directory.save({"step": index}, index, metrics=metrics)
    _, shown = on_terminal("list", str(tmp_path / "runs"), columns=60)
    titles = text_of(shown).splitlines()[0].split()
    assert ("val_accuracy" in titles, "learning_rate" in titles) == (True, False)


NAMES = ["index", "kind", "size", "age", "train_loss", "val_accuracy", "complete", "file"]


@pytest.mark.parametrize("columns", range(50, 100, 3))
def test_no_title_of_usual_length_is_cut_for_the_room_of_a_letter(on_terminal, tmp_path, columns):
    with CheckpointDirectory(tmp_path / "runs") as directory:
        for index in range(2):
            metrics = {"train_loss": 1 / (index + 3), "val_accuracy": index / 3}
            directory.save({"step": index}, index, metrics=metrics)
    _, shown = on_terminal("list", str(tmp_path / "runs"), columns=columns)
    titles = text_of(shown).splitlines()[0].split()
    assert (titles, "train_loss" in titles) == ([one for one in NAMES if one in titles], True)


def test_a_hint_at_what_has_no_room_cuts_long_names_and_quiet_leaves_it_out(run_main, tmp_path, monkeypatch):
    with CheckpointDirectory(tmp_path / "runs") as directory:
        directory.save({"step": 0}, 0, metrics={"loss": 1.0, "m" * 200: 1.0})
    monkeypatch.setenv("COLUMNS", "40")
    *_, hint = run_main("list", tmp_path / "runs")[2].splitlines()
    assert ("no room for" in hint, "m" * 8 in hint, "m" * 30 in hint) == (True, True, False)
    assert run_main("list", tmp_path / "runs", "--quiet")[2] == ""


def test_a_prefix_that_nothing_has_is_answered_with_those_that_are_there(run_main, tmp_path):
    for name in ("gpt", "net", "one", "two", "tri"):
        with CheckpointDirectory(tmp_path / "runs", prefix=name) as directory:
            directory.save({"step": 0}, 0)
    hint = "hint: there are checkpoints with --prefix gpt or --prefix net or --prefix one, or one of 2 more"
    for command in ("list", "latest"):
        assert run_main(command, tmp_path / "runs", "--prefix", "model")[2].splitlines()[-1] == hint


def test_a_list_with_rows_hints_at_checkpoints_that_are_deeper_as_latest_would_name_one(run_main, tmp_path):
    hint = "hint: there are more in sub-directories: --recursive\n"
    for index, place in enumerate((tmp_path, tmp_path / "deeper" / "still")):
        with CheckpointDirectory(place) as directory:
            directory.save({"step": index}, index)
        assert (hint in run_main("list", tmp_path)[2]) == bool(index)
    assert "deeper" in run_main("latest", tmp_path)[1]
    for option in ("--recursive", "--quiet", "--json"):
        assert hint not in run_main("list", tmp_path, option)[2]
