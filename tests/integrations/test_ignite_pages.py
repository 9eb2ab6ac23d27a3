"""The example for PyTorch-Ignite runs, and its page shows what runs."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tests.support import warm
from tests.support.checkpoint_directories import listed
from tests.support.folders import REPOSITORY

with warnings.catch_warnings():  # of torch.jit.script, which torch.distributed.optim calls
    warnings.simplefilter("ignore", DeprecationWarning)
    from ignite.engine import Events
    from ignite.handlers import DiskSaver

    from marlin_ckpt.integrations.ignite import MarlinSaver
    from tests.support.ignite_runs import Training


def test_the_example_resumes(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "examples" / "with_ignite.py"), str(tmp_path / "run")]
    said = [
        warm.run(command, capture_output=True, text=True, timeout=300, check=True).stdout for _ in range(2)
    ]
    assert said[0].startswith("starts from the beginning\nloss ")
    assert said[1] == said[0].removeprefix("starts from the beginning\n")
    assert len(listed(tmp_path / "run")) == 2


def test_the_page_shows_lines_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "docs" / "how-to" / "ignite.md").read_text()
    (difference,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    (resuming,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    training = Training()
    for sign in "-+":
        namespace = {"to_save": training.to_save}
        lines = [line[1:] for line in difference.splitlines() if line.startswith(sign)]
        exec("\n".join(lines), namespace)
        assert isinstance(namespace["handler"].save_handler, DiskSaver if sign == "-" else MarlinSaver)
    training.engine.add_event_handler(Events.EPOCH_COMPLETED, namespace["handler"])
    training.run()
    other = Training()
    exec("import marlin_ckpt\n" + resuming, {"to_save": other.to_save})
    assert torch.equal(other.model.weight, training.model.weight)
