"""The page on how saves overlap: its code runs, and its table has the settings that the signatures have."""

from __future__ import annotations

import inspect
import re

import pytest

from marlin_ckpt import CheckpointDirectory, DefaultCheckpointer, DefaultCheckpointerArguments, Saver
from tests.support.pages import DOCS

TEXT = (DOCS / "explanation" / "overlap.md").read_text()
TABLE = TEXT.partition("## Which settings there are where")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| (.+) \| (.+) \| (.+) \| (.+) \|$", TABLE, re.MULTILINE)[2:]  # without the head
HOLDERS = [DefaultCheckpointerArguments, Saver, CheckpointDirectory]
OWNERS = [DefaultCheckpointer, Saver, CheckpointDirectory]
SETTINGS = {
    "async_save", "asynchronous", "overlap", "check_overlap", "when_busy", "on_save_error", "on_error",
    "on_durable",
}  # fmt: skip


@pytest.mark.parametrize("column", range(3), ids=lambda one: HOLDERS[one].__name__)
def test_the_table_gives_each_its_settings_with_their_defaults_and_no_others(column):
    parameters = inspect.signature(HOLDERS[column]).parameters
    cells = [row[column + 1] for row in ROWS]
    named = re.findall(r"`(\w+)`(?: \((\w+)\))?", " ".join(cells))
    assert {name for name, _ in named} == parameters.keys() & SETTINGS
    for name, default in named:
        if default:
            assert default.capitalize() == str(parameters[name].default).capitalize()


def test_what_the_table_calls_are_methods():
    for holder, row in zip(OWNERS, [*zip(*ROWS, strict=True)][1:], strict=True):
        for name in re.findall(r"`(\w+)\(\)`", " ".join(row)):
            assert callable(getattr(holder, name))


def test_the_code_of_the_page_prints_a_report_of_each_save(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    exec(block, {})
    assert re.findall(r"model_(\d+)\.pt", capsys.readouterr().out) == ["0", "10"]
