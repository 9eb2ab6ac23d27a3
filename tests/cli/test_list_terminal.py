"""`marlin-ckpt list` where a person reads it: on a real terminal, or where COLUMNS says how wide that is."""

from __future__ import annotations

import datetime
import os
import re

import pytest
import torch

from marlin_ckpt import Checkpoint
from marlin_ckpt.cli.widths import width_of
from tests.support.terminal import HOSTILE, STYLE, assert_harmless, text_of

WIDTHS = [60, 80, 120, 200]
ELLIPSIS = "\u2026"


@pytest.fixture
def trained(make_checkpointer, make_checkpoint, manifests_say):
    """Saves so many checkpoints, three hours ago, with two losses, under a prefix."""
    manifests_say(datetime.timedelta(hours=3, minutes=1))

    def train(count: int, prefix: str = "model", **arguments: str) -> None:
        checkpointer = make_checkpointer(file_prefix=prefix, **arguments)
        for index in range(count):
            metrics = {"train_loss": 3 / (index + 1), "val_loss": 1 + abs(index - 5) / 7}
            checkpointer.save(make_checkpoint(**metrics), index)

    return train


def rows_of(shown: str) -> list[str]:
    """The lines of the table below its titles."""
    return [line for line in shown.splitlines() if re.match(r" *([0-9a-f]{12}  +)?(\d+|-)  ", line)]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 12])
def test_a_row_is_one_line_that_fits_the_terminal(on_terminal, trained, tmp_path, columns, count):
    (tmp_path / "checkpoints").mkdir()
    trained(count, "a_long_name_" * 5)
    code, shown = on_terminal("list", "checkpoints", columns=columns)
    lines = text_of(shown).splitlines()
    assert code == 0
    table_lines = lines[: count + 1 if count else 0]
    assert [line for line in table_lines if width_of(line) > columns] == []
    assert [line.split()[0] for line in table_lines[1:]] == [str(index) for index in range(count)]
    assert len(lines) - len(table_lines) <= 2  # the totals, and a hint


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_middle_of_a_long_name_is_cut_with_a_sign_that_keeps_its_ends(on_terminal, trained, columns):
    trained(3, "begin" + "_long" * 30)
    _, shown = on_terminal("list", "checkpoints", columns=columns)
    files = [line.split()[-1] for line in rows_of(text_of(shown))]
    assert len(files) == 3
    assert all(re.fullmatch(rf"begi[\w]*{ELLIPSIS}[\w.]*_\d\.pt", one) for one in files), files


@pytest.mark.parametrize("columns", [30, 40, 60])
def test_a_column_that_has_no_room_is_named(on_terminal, trained, columns):
    trained(12)
    _, shown = on_terminal("list", "checkpoints", columns=columns)
    header, *_, totals, hint = text_of(shown).splitlines()
    all_of_them = {"index", "kind", "size", "age", "train_loss", "val_loss", "complete", "file"}
    named = {name for name in all_of_them if re.search(rf"\b{name}\b", hint)}
    assert hint.startswith("hint: no room for ")
    assert len(header.split()) + len(named) == len(all_of_them)
    assert {*header.split()} & named == set()
    assert "kind (checkpoint)" in " ".join(hint.split())
    assert totals.startswith("12 checkpoints, ")


def test_columns_says_how_wide_a_pipe_is(run_main, trained, monkeypatch, tmp_path):
    trained(12, "long" * 30)
    whole = run_main("list", tmp_path / "checkpoints")[1]
    assert ELLIPSIS not in whole
    assert whole.count("long" * 30) == 12
    monkeypatch.setenv("COLUMNS", "70")
    narrow = run_main("list", tmp_path / "checkpoints")[1]
    assert max(map(len, narrow.splitlines())) <= 70
    assert [row.split()[-1].count(ELLIPSIS) for row in narrow.splitlines()[1:]] == [1] * 12
    for nonsense in ("0", "-5", "wide", ""):
        monkeypatch.setenv("COLUMNS", nonsense)
        assert run_main("list", tmp_path / "checkpoints")[1] == whole


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_for_terminals_that_take_them(on_terminal, trained, tmp_path, variables):
    trained(2)
    (tmp_path / "checkpoints" / "model_9.pt").touch()
    os.utime(tmp_path / "checkpoints" / "model_9.pt", (86400, 86400))
    _, coloured = on_terminal("list", "checkpoints")
    _, plain = on_terminal("list", "checkpoints", variables=variables)
    assert {b"\x1b[1m", b"\x1b[31m", b"\x1b[32m"} <= {*re.findall(STYLE, coloured)}
    assert b"\x1b" not in plain
    assert text_of(coloured) == plain.decode()


def test_the_newest_and_the_best_are_marked_with_signs(run_main, trained, tmp_path):
    trained(12)
    _, out, err = run_main("list", tmp_path / "checkpoints")
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[0] for row in rows if ">" in row] == ["11"]
    assert [row[0] for row in rows if row[6].endswith("*")] == ["11"]
    assert [row[0] for row in rows if row[7].endswith("*")] == ["5"]
    assert re.fullmatch(r"12 checkpoints, \S+ kB, 1 run; > newest, \* best\n", err)


def test_what_is_damaged_is_neither_the_newest_nor_the_best(run_main, trained, tmp_path):
    trained(12)
    for index in (5, 11):
        os.truncate(tmp_path / "checkpoints" / f"model_{index}.pt", 1000)
    _, out, err = run_main("list", tmp_path / "checkpoints")
    assert re.findall(r"> (\S+)", out) == ["model_10.pt"]
    assert [line.split()[0] for line in out.splitlines() if "*" in line] == ["6", "10"]
    assert ", 2 not complete; " in err


def test_a_single_checkpoint_needs_no_mark(run_main, trained, tmp_path):
    trained(1)
    _, out, err = run_main("list", tmp_path / "checkpoints")
    assert not {">", "*"} & {*out}
    assert re.fullmatch(r"1 checkpoint, \S+ kB, 1 run\n", err)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_whose_name_says_nothing_is_marked_where_best_says_how(
    run_main, make_checkpointer, mode, tmp_path
):
    checkpointer = make_checkpointer()
    for index in range(3):
        checkpointer.save(Checkpoint({"w": torch.ones(2)}, metrics={"entropy": index}), index)
    assert "*" not in run_main("list", tmp_path / "checkpoints")[1]
    out = run_main("list", tmp_path / "checkpoints", "--best", f"entropy:{mode}")[1]
    assert [row.split()[0] for row in out.splitlines() if "*" in row] == ["0" if mode == "min" else "2"]


def test_several_runs_have_a_column_with_their_ids_without_an_option(run_main, trained, tmp_path):
    trained(2)
    trained(3, "other", load_dir=None)
    out = run_main("list", tmp_path / "checkpoints")[1]
    header, *rows = [line.split() for line in out.splitlines()]
    assert header[0] == "run"
    assert len({row[0] for row in rows}) == 2
    assert re.findall(r"> (\S+)", out) == ["model_1.pt", "other_2.pt"]


@pytest.mark.parametrize("letters", [4, 12])
def test_run_takes_the_start_of_an_id_that_is_of_one_run(run_main, trained, tmp_path, letters):
    trained(2)
    trained(3, "other", load_dir=None)
    rows = [line.split() for line in run_main("list", tmp_path / "checkpoints")[1].splitlines()[1:]]
    (run_id,) = {row[0] for row in rows if row[-1].startswith("other")}
    code, out, _ = run_main("list", tmp_path / "checkpoints", "--run", run_id[:letters])
    assert (code, [line.split()[-1] for line in out.splitlines()[1:]]) == (
        0,
        ["other_0.pt", "other_1.pt", "other_2.pt"],
    )


@pytest.mark.parametrize(
    ("run", "says"), [("zzz", "no checkpoint of run zzz found"), ("", "2 runs have an id that")]
)
def test_run_of_no_run_or_of_several_exits_4_and_names_those_there_are(
    run_main, trained, tmp_path, run, says
):
    trained(1)
    trained(1, "other", load_dir=None)
    ids = {line.split()[0] for line in run_main("list", tmp_path / "checkpoints")[1].splitlines()[1:]}
    code, out, err = run_main("list", tmp_path / "checkpoints", "--run", run)
    assert (code, out) == (4, "")
    assert says in err
    assert all(one in err.splitlines()[1] for one in ids)


@pytest.mark.parametrize(
    ("options", "indices"),
    [
        (["-n", "2"], [10, 11]),
        (["-n", "2", "--reverse"], [11, 10]),
        (["--reverse", "--since", "1d"], [*range(11, -1, -1)]),
        (["-n", "3", "--best", "val_loss"], [5, 6, 4]),
        (["-n", "99"], [*range(12)]),
    ],
)
def test_n_takes_the_last_or_the_best_and_reverse_turns_them_round(
    run_main, trained, tmp_path, options, indices
):
    trained(12)
    _, out, err = run_main("list", tmp_path / "checkpoints", *options)
    assert [int(line.split()[0]) for line in out.splitlines()[1:]] == indices
    assert ("shown" in err) == (len(indices) < 12)
    assert err.startswith("12 checkpoints, ")


def test_n_takes_the_last_of_each_run_of_a_tree(run_main, trained, tmp_path):
    for name in "ab":
        trained(3, save_dir=str(tmp_path / "runs" / name), load_dir=None)
    out = run_main("list", tmp_path / "runs", "--recursive", "-n", "1")[1]
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["a/model_2.pt", "b/model_2.pt"]


def test_n_below_one_is_a_usage_error(run_main, tmp_path):
    assert run_main("list", tmp_path, "-n", "0")[0] == 2


def test_quiet_prints_the_table_alone(run_main, trained, tmp_path):
    trained(2)
    _, out, err = run_main("list", tmp_path / "checkpoints", "-q")
    assert (len(out.splitlines()), err) == (3, "")
    (tmp_path / "none").mkdir()
    assert run_main("list", tmp_path / "none", "--quiet")[:2] == (0, "")


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_hostile_name_in_the_table_does_nothing_to_the_terminal(on_terminal, hostile_directory, columns):
    code, shown = on_terminal("list", ".", "--recursive", columns=columns)
    text = assert_harmless(shown)
    assert code == 0
    if columns == 200:
        for name in (r"\x1b[31mred_2.pt", r"new\nline_1.pt", "[red]_6.pt", "]_9.pt", r"\xff\xfe_7.pt"):
            assert f"  x[/{name}\n" in re.sub(" +\n", "\n", text)
    assert len(rows_of(text)) == len(HOSTILE) + 1


@pytest.mark.parametrize("columns", [60, 100])
def test_wide_characters_take_two_columns_and_marks_on_letters_none(on_terminal, tmp_path, columns):
    for name in ("\u6a21\u578b" * 12 + "_1.pt", "e\u0301" * 20 + "_2.pt", "\U0001f980" * 9 + "_3.pt"):
        (tmp_path / name).touch()
    lines = text_of(on_terminal("list", ".", columns=columns)[1]).splitlines()[:4]
    assert max(map(width_of, lines)) <= columns
    places = {width_of(line[: re.search(r"\S+$", line).start()]) for line in lines}
    assert len(places) == 1


def test_a_hostile_metric_is_harmless_in_a_title(on_terminal, make_checkpointer):
    checkpointer = make_checkpointer()
    for index in range(2):
        checkpointer.save(Checkpoint({"w": torch.ones(2)}, metrics={"a\x1b[31mloss\n": float(index)}), index)
    text = assert_harmless(on_terminal("list", "checkpoints", columns=200)[1])
    assert r"a\x1b[31mloss\n" in text


def test_300_rows_are_each_a_line(on_terminal, trained, tmp_path):
    trained(1)
    data = (tmp_path / "checkpoints" / "model_0.pt").read_bytes()
    for index in range(1, 300):
        (tmp_path / "checkpoints" / f"model_{index}.pt").write_bytes(data)
    lines = text_of(on_terminal("list", "checkpoints")[1]).splitlines()
    assert [int(line.split()[0]) for line in lines[1:301]] == [*range(300)]
    assert lines[301].startswith("300 checkpoints, ")


def test_follow_shows_what_another_run_saves_meanwhile_until_ctrl_c(
    on_terminal, trained, tmp_path, make_checkpointer, make_checkpoint
):
    trained(2)

    def save_more() -> bytes:
        make_checkpointer().save(make_checkpoint(train_loss=0.5, val_loss=0.25), 7)
        return b""

    answers = {b"2 checkpoints": save_more, b"model_7.pt": b"\x03"}
    code, shown = on_terminal("list", "checkpoints", "--follow", columns=120, answers=answers)
    assert code == 130
    assert b"Traceback" not in shown
    assert b"\x1b[4A\x1b[J" in shown  # a frame of four lines is drawn again
    *_, last = shown.split(b"\x1b[J")
    assert [line.split()[1] for line in rows_of(text_of(last))] == ["0", "1", "7"]


def test_follow_waits_for_the_first_checkpoint_and_shows_as_many_as_there_is_room_for(
    on_terminal, trained, tmp_path
):
    (tmp_path / "checkpoints").mkdir()

    def save_many() -> bytes:
        trained(40)
        return b""

    answers = {b"no checkpoints in checkpoints yet": save_many, b"40 checkpoints": b"\x03"}
    code, shown = on_terminal("list", "checkpoints", "--follow", answers=answers)
    *_, last = shown.split(b"\x1b[J")
    assert code == 130
    assert [int(line.split()[0]) for line in rows_of(text_of(last))] == [*range(20, 40)]
    assert "20 shown" in text_of(last)


@pytest.mark.parametrize("options", [(), ("--json",), ("--spark", "loss")])
def test_follow_needs_a_terminal_and_goes_with_no_document(run_main, tmp_path, options):
    code, _, err = run_main("list", tmp_path, "--follow", *options)
    assert code == 2
    assert "--follow" in err
    assert ("needs a terminal" in err) == (not options)
