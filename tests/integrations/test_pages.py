"""The page of all tools: its lines are those of the pages and the examples that it leads to, and they run."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.folders import REPOSITORY

PAGE = (REPOSITORY / "docs" / "how-to" / "own-loop.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
MORE = {name: re.findall(r"\[More\]\((.+?)\)", text) for name, text in SECTIONS.items()}


def _lines(text: str, sign: str) -> list[str]:
    (block,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    return [line[1:] for line in block.splitlines() if line[0] == sign]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_adds_two_to_five_lines_and_leads_to_files_that_are_there(name):
    assert 2 <= len(_lines(SECTIONS[name], "+")) <= 5
    for link in re.findall(r"\]\(([^)#]+)\)", SECTIONS[name]):
        assert (REPOSITORY / "docs" / link).is_file(), link


@pytest.mark.parametrize("name", [name for name, links in MORE.items() if links])
def test_the_lines_that_are_added_are_those_of_the_page_of_the_tool(name):
    longer = (REPOSITORY / "docs" / MORE[name][0]).read_text()
    assert [line for line in _lines(SECTIONS[name], "+") if f"+{line}" not in longer] == []


@pytest.mark.parametrize("name", [name for name, links in MORE.items() if not links])
def test_the_lines_that_are_added_run_and_save(name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(2, 2)
    told: list[str] = []
    tracker = SimpleNamespace(
        log_artifact=lambda path, **_: told.append(path), info=SimpleNamespace(run_id="run")
    )
    given: dict[str, Any] = {
        "model": model, "optimizer": torch.optim.AdamW(model.parameters()), "step": 3, "loss": 0.5,
        "path": "saved.pt", "state": {"step": 3}, "run": tracker, "mlflow": tracker,
    }  # fmt: skip
    exec("\n".join(_lines(SECTIONS[name], "+")), given)
    if "saver" in given:
        given["saver"].close()
        assert Path("saved.pt").is_file()
    else:
        assert given["found"]["step"] == 3
    assert told == (["saved.pt"] if "on_durable" in SECTIONS[name] else [])


def test_every_page_of_a_tool_is_one_that_the_page_of_all_leads_to():
    pages = {path.name for path in (REPOSITORY / "docs").glob("i-use-*.md")}
    assert pages == {links[0] for links in MORE.values() if links}
