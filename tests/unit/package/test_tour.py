"""The tour runs the console blocks of a page, and finds where a block no longer shows what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import tour
from tools.page import read
from tools.shell import Command, Shell, TourError


def console(*lines: str) -> str:
    return "\n".join(["```console", *lines, "```", ""])


def played(text: str, directory: Path, **options: bool) -> str:
    return tour.play(read(text), directory, **options)


def test_what_commands_print_takes_the_place_of_what_was_shown_and_all_else_stays(tmp_path):
    text = (
        "# Title\n\n" + console("$ echo one; echo two >&2", "old", "older") + "between\n\n" + console("$ pwd")
    )
    shown = (
        console("$ echo one; echo two >&2", "one", "two") + "between\n\n" + console("$ pwd", str(tmp_path))
    )
    assert played(text + "\nend", tmp_path) == "# Title\n\n" + shown + "\nend"


def test_the_commands_of_a_page_share_one_shell(tmp_path):
    text = (
        console("$ mkdir below && cd below", "$ here=1")
        + "\n"
        + console("$ false", "$ echo $? $here", "$ ls ..")
    )
    assert played(text, tmp_path).endswith("$ false\n$ echo $? $here\n1 1\n$ ls ..\nbelow\n```\n")


def test_a_command_goes_on_below_a_line_and_needs_no_end_of_its_output(tmp_path):
    text = console("$ cat <<END; printf last", "> first", "> END", "$ echo next")
    assert played(text, tmp_path) == console(
        "$ cat <<END; printf last", "> first", "> END", "first", "last", "$ echo next", "next"
    )


def test_a_block_within_a_list_keeps_its_indent(tmp_path):
    text = "1. Type\n\n   ```console\n   $ echo one; echo\n   ```\n\n2. Look\n"
    assert (
        played(text, tmp_path)
        == "1. Type\n\n   ```console\n   $ echo one; echo\n   one\n\n   ```\n\n2. Look\n"
    )


def test_comments_save_a_block_run_a_command_and_name_an_exit_code(tmp_path):
    text = (
        '<!-- tour: file own.py -->\n```python\nprint("own")\n```\n<!-- tour: run echo kept > kept -->\n'
        "<!-- tour: exit 3 -->\n"
        + console("$ python own.py; cat kept", "$ exit_with() { return 3; }; exit_with")
    )
    assert "cat kept\nown\nkept\n$ exit_with" in played(text, tmp_path)
    with pytest.raises(TourError, match="exit_with: exit 3, not 0"):
        played(text.replace("exit 3 -->", "exit 0 -->"), tmp_path)


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_has_to_exit_with_0_unless_the_next_one_shows_its_code(tmp_path, code):
    assert played(console(f"$ (exit {code})", "$ echo $?"), tmp_path).endswith(f"$ echo $?\n{code}\n```\n")
    with pytest.raises(TourError, match="exit 1, not 0"):
        played(console("$ false", "$ true"), tmp_path)


def test_a_slow_block_stays_as_it_is_where_slow_ones_are_not_run(tmp_path):
    text = "<!-- tour: slow -->\n" + console("$ echo new", "old") + console("$ echo new", "old")
    assert played(text, tmp_path, slow=False).count("new\nnew\n") == 1
    assert played(text, tmp_path).count("new\nnew\n") == 2


_CATCHES = """trap 'echo caught; exit 130' INT
echo one
echo two
while :; do read -t 10 < <(sleep 9); done
"""


def test_a_command_is_interrupted_where_the_block_shows_it(tmp_path):
    (tmp_path / "waits").write_text(_CATCHES)
    shown = console("$ bash waits", "one", "two", "^C", "caught", "$ echo $?", "130")
    assert played(shown, tmp_path) == shown


def test_a_command_is_killed_where_the_block_shows_it(tmp_path):
    (tmp_path / "waits").write_text(_CATCHES)
    shown = console("$ bash waits", "one", "Killed", "$ echo $?", "137")
    assert played(shown, tmp_path) == shown


def test_a_command_that_ends_before_it_is_to_be_killed_is_an_error(tmp_path):
    with pytest.raises(TourError, match="ended before Killed"):
        played(console("$ echo one", "one", "two", "Killed"), tmp_path)


def test_a_command_that_ends_the_shell_is_an_error(tmp_path):
    with Shell(tmp_path) as shell, pytest.raises(TourError, match="has ended the shell:\nlast words"):
        shell.run(Command("echo last words; exit"))


@pytest.mark.parametrize("text", ["<!-- tour: fersh -->\n", console("echo one")])
def test_what_the_tour_does_not_know_is_an_error(tmp_path, text):
    with pytest.raises(TourError, match=r"fersh|echo one"):
        played(text, tmp_path)


def test_a_page_says_that_it_starts_afresh():
    assert read("<!-- tour: fresh -->\n").fresh
    assert not read("text\n").fresh


def test_figures_times_ids_and_widths_make_no_difference():
    shown = (
        "run 77777acc9d43  12.5 MB at 1.2 GB/s 2026-11-24T13:38:39.412Z -0.3 nine 3e-05  0.5* process 7 on vm"
    )
    printed = "run f15cb410d6fd      9 kB at 3 MB/s 2026-11-25T03:38:39Z  17 nine 1.25 2 process 21 on node-3"
    assert tour.differences(console("$ x", shown), console("$ x", printed)) == ""


@pytest.mark.parametrize(
    "change", [("saved", "wrote"), ("model_7.pt", "model_6.pt"), ("one\n", ""), (" at", "")]
)
def test_words_names_and_lines_make_a_difference(change):
    text = console("$ x", "one", "saved model_7.pt at 3 s")
    assert tour.differences(text, text.replace(*change)) != ""


def test_the_command_rewrites_a_page_and_finds_then_what_somebody_has_changed(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- tour: fresh -->\n" + console("$ ls; echo 5 files"))
    assert tour.main([str(page)]) == 0
    assert page.read_text().endswith(console("$ ls; echo 5 files", "configs", "5 files"))
    page.write_text(page.read_text().replace("\n5 files", "\n6 file"))
    before = page.read_text()
    assert tour.main(["--check", str(page)]) == 1
    assert page.read_text() == before
    assert "-N file\n" in capsys.readouterr().out
