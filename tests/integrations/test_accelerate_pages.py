"""The example for Accelerate runs, and its page shows what runs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from marlin_ckpt.integrations.accelerate import MarlinAccelerator
from tests.support import warm
from tests.support.folders import REPOSITORY


def test_the_example_resumes(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "examples" / "with_accelerate.py"), str(tmp_path / "run")]
    said = [
        warm.run(command, capture_output=True, text=True, timeout=300, check=True).stdout for _ in range(2)
    ]
    assert said[0].startswith("starts from the beginning\nloss ")
    assert said[1] == said[0].removeprefix("starts from the beginning\n")
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["checkpoint_3", "checkpoint_4"]


def test_the_page_shows_lines_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "docs" / "how-to" / "accelerate.md").read_text()
    (difference,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    (resuming,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    given = "from accelerate import Accelerator\n"
    given += "from accelerate.utils import ProjectConfiguration\n"
    for sign in "-+":
        namespace: dict = {}
        lines = [line[1:] for line in difference.splitlines() if line[0] in (sign, " ")]
        exec(given + "\n".join(lines), namespace)
        assert isinstance(namespace["accelerator"], MarlinAccelerator) == (sign == "+")
    accelerator = namespace["accelerator"]
    for number in range(2):
        exec(resuming, namespace)
        assert namespace["first"] == number
        accelerator.save_state()
