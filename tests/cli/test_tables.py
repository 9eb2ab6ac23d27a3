"""The tables of the commands but `list`: each row is a line, in a terminal and where COLUMNS is set."""

from __future__ import annotations

import pytest
import torch

from marlin_ckpt import save
from marlin_ckpt.cli import table
from tests.support.terminal import text_of

ELLIPSIS = "\u2026"
PREFIX = "a_long_name_of_an_experiment_" * 3
LAYERS = [f"encoder.blocks.{number}.attention.weight" for number in range(3)]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Two checkpoints with long names, one of which has a NaN."""
    monkeypatch.chdir(tmp_path)
    for index in range(2):
        tensors = {name: torch.randn(40, 30) + index for name in LAYERS}
        tensors[LAYERS[1]][0, 0] = torch.nan if index else 0
        state = {"model": tensors, "note": "why this run was made, in some words " * 3}
        save(state, f"runs/{PREFIX}_{index}.pt", metrics={"val_loss": 1 / (index + 1)})
    return tmp_path / "runs"


def commands(first: str, second: str) -> dict[str, list[str]]:
    return {
        "show": ["show", first],
        "tensors": ["show", first, "--tensors", "*"],
        "stats": ["show", second, "--stats", "*"],
        "diff": ["diff", first, second, "--tensors", "*"],
        "clean": ["clean", "runs", "--keep-last", "1", "--keep-best", "val_loss", "--dry-run"],
        "advise": ["advise", "runs", "--size", "1MB", "--step-seconds", "0.5", "--mtbf-hours", "24"],
    }


COMMANDS = commands(f"runs/{PREFIX}_0.pt", f"runs/{PREFIX}_1.pt")
# The first title of each.
TITLES = {
    "show": "name", "tensors": "name",
    "stats": "name", "diff": "relative", "clean": "index", "advise": "period"
}  # fmt: skip


def table_of(out: str, command: str) -> list[str]:
    lines = out.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.split()[:1] == [TITLES[command]])
    return [line for line in lines[begin:] if line and not line.startswith("hint: ")]


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_columns_says_how_wide_the_table_of_each_command_is_in_a_pipe(
    run_main, directory, monkeypatch, command, columns
):
    code, whole, _ = run_main(*COMMANDS[command])
    assert (code, ELLIPSIS in whole) == (command == "diff", False)
    monkeypatch.setenv("COLUMNS", str(columns))
    _, narrow, talk = run_main(*COMMANDS[command])
    wide_rows, rows = table_of(whole, command), table_of(narrow, command)
    # `advise` measures anew, and has a row more where the best period is none of the usual ones.
    assert len(rows) == len(wide_rows) or command == "advise"
    assert [line for line in rows if table.width_of(line) > columns] == []
    gone = {*wide_rows[0].split()} - {*rows[0].split()}
    assert [name for name in gone if name not in talk] == []


@pytest.mark.parametrize("command", ["tensors", "stats", "diff"])
def test_names_of_tensors_can_be_told_apart_in_60_columns(run_main, directory, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "60")
    rows = table_of(run_main(*COMMANDS[command])[1], command)
    assert len({word for line in rows for word in line.split() if word.startswith("model.encoder")}) >= 3


@pytest.mark.parametrize("command", ["tensors", "clean"])
def test_on_a_terminal_a_row_is_one_line_whose_long_names_are_cut_in_the_middle(
    on_terminal, directory, command
):
    _, shown = on_terminal(*COMMANDS[command], columns=40)
    rows = table_of(text_of(shown), command)
    names = [next((word for word in line.split() if ELLIPSIS in word), "") for line in rows]
    assert [line for line in rows if table.width_of(line) > 40] == []
    assert any(one.partition(ELLIPSIS)[2] for one in names), rows
    assert "hint: no room for " in text_of(shown)


def test_a_column_without_a_value_is_left_out_and_not_named(run_main, directory, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    out, talk = run_main("advise", "runs", "--size", "1MB")[1:]
    assert ("steps" in out, "waste" in out) == (False, False)
    assert ("steps" in talk, "waste" in talk) == (False, False)
