"""`marlin-ckpt log` on a terminal: lines that are folded, names that are cut, colours."""

from __future__ import annotations

import re
import sys

import pytest

from marlin_ckpt.cli.table import width_of
from marlin_ckpt.directory.history.events import Ended
from tests.support.histories import ONE, at, log_directory, save, write


@pytest.fixture
def directory(tmp_path):
    return log_directory(tmp_path / "runs")


@pytest.fixture(autouse=True)
def _in_utc(in_zone, monkeypatch):
    in_zone("UTC")
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def on_terminal(monkeypatch, run_main):
    """Runs `log` as on a terminal of so many columns; gives the lines of stdout."""

    def run(width, *arguments, **environment):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", environment.get("TERM", "xterm"))
        monkeypatch.setenv("NO_COLOR", environment.get("NO_COLOR", "1"))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        return run_main("log", *arguments)[1].splitlines()

    return run


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_on_a_terminal_a_long_line_goes_on_below_itself_and_no_word_is_lost(
    log, on_terminal, directory, width
):
    whole = log(directory)
    lines = on_terminal(width, directory)
    assert max(map(width_of, lines)) <= width
    indent = len("2026-11-27 12:00:00  3fa1c2  ")
    assert [line[:indent].isspace() for line in lines].count(False) == 18
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(whole).split())


def test_on_a_terminal_the_middle_of_a_long_name_is_cut_out_with_a_sign(log, on_terminal, tmp_path):
    name = "model_" + "x" * 100 + "名前" * 20 + "_1.pt"
    write(tmp_path, save(1, 1, name=name), Ended(run_id=ONE, at=at(2)))
    assert name in log(tmp_path)[0]
    lines = on_terminal(80, tmp_path)
    assert max(map(width_of, lines)) <= 80
    assert "saved model_xxxxxxxx…名前名前_1.pt" in lines[0]


def test_colours_are_for_terminals_that_have_them_and_say_nothing_alone(on_terminal, directory):
    plain = on_terminal(120, directory)
    assert on_terminal(120, directory, NO_COLOR="", TERM="dumb") == plain
    coloured = on_terminal(120, directory, NO_COLOR="")
    assert any("\x1b[32msaved\x1b[0m model_1.pt" in line for line in coloured)
    assert any("\x1b[1;31msave failed:\x1b[0m" in line for line in coloured)
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in coloured] == plain


def test_in_a_pipe_lines_are_folded_only_where_columns_says_how_wide(log, directory, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert len(log(directory)) == 18
    monkeypatch.setenv("COLUMNS", "60")  # as `watch` sets it
    assert max(map(len, log(directory))) <= 60
