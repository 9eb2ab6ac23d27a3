"""Talk on a narrow terminal: its lines break at blanks, and what is copied from it is what was printed."""

from __future__ import annotations

import io
import re

import pytest

from marlin_ckpt.cli.widths import fitted, width_of
from tests.support.terminal import MOVE, text_of

COLUMNS = 24


@pytest.fixture
def terminal(monkeypatch):
    """A stream that is a terminal of some width."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 1

    monkeypatch.setattr("os.get_terminal_size", lambda _: type("Size", (), {"columns": COLUMNS}))
    return Terminal()


def screen(text: str) -> list[str]:
    """The lines that a terminal shows of one line."""
    return re.findall(f".{{1,{COLUMNS}}}", text)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("hint: it is short", ["hint: it is short"]),
        ("hint: marlin-ckpt train --config run.yaml", ["hint: marlin-ckpt train", "--config run.yaml"]),
        ("of 23 letters with blank and more", ["of 23 letters with", "blank and more"]),
        ("a line of twenty four l. x", ["a line of twenty four", "l. x"]),
        ("see /a/path/that/is/longer/than/a/line now", ["see /a/path/that/is/long", "er/than/a/line now"]),
        ("hint: list 'my own runs' shows", ["hint: list", "'my own runs' shows"]),
        ("the run's end isn't 'there'", ["the run's end isn't", "'there'"]),
        ("loss 1.25  accuracy 0.5  x 2", ["loss 1.25  accuracy 0.5", "x 2"]),
    ],
)
def test_a_line_breaks_at_blanks_alone_and_its_words_stay(terminal, line, shown):
    text = fitted(line, terminal)
    assert [one.strip() for one in screen(text)] == shown
    assert text.split() == line.split()  # no two words have become one where a line is full


def test_wide_letters_count_twice(terminal):
    text = fitted("日本語の長い 名前日本語の長い名前", terminal)
    assert width_of(text.rpartition(" ")[0] + " ") == COLUMNS


def test_what_is_no_terminal_gets_the_line_as_it_is():
    line = "a word " * 100
    assert fitted(line, io.StringIO()) == line


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("given", ["", "200"])
def test_an_error_and_its_hint_break_no_word_on_a_real_terminal(on_terminal, tmp_path, columns, given):
    module = "a_package_of_mine.and_a_module_in_it:Net"
    variables = {"COLUMNS": given} if given else {}
    _, shown = on_terminal("init", "--module", module, columns=columns, variables=variables)
    lines = [part for line in text_of(shown).splitlines() for part in re.findall(f".{{1,{columns}}}", line)]
    words = {word for line in lines for word in line.split()}
    assert {"a_package_of_mine.and_a_module_in_it", "path/to/my_file.py:MyModule"} <= words
    assert len(lines) > 2


def test_the_verdict_on_a_damaged_file_breaks_at_blanks_too(on_terminal, tmp_path):
    (tmp_path / "model_1.pt").write_bytes(b"no checkpoint at all, but a text")
    _, shown = on_terminal("verify", "model_1.pt", columns=30)
    first = next(one for one in text_of(re.sub(MOVE, b"", shown)).splitlines() if "not a checkpoint" in one)
    first = first[first.index("not a checkpoint") :]
    assert len(first) > 30
    assert [first[at - 1 : at] for at in range(30, len(first), 30)] == [" "] * ((len(first) - 1) // 30)


def test_the_help_of_a_narrow_terminal_has_whole_summaries(on_terminal):
    _, shown = on_terminal("--help", columns=50)
    assert "..." not in text_of(shown).replace("[ARGS]...", "")
