"""Trainings with Lightning that are killed while they save, the example and the page."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys

import pytest
import torch

import marlin_ckpt
from tests.support.checkpoint_directories import listed
from tests.support.folders import REPOSITORY

pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::pytorch_lightning", "ignore:::torch")


@pytest.fixture(scope="module")
def killed(tmp_path_factory, cases):
    count = int(os.environ.get("PEER_KILLS", cases(2, 100)))
    command = [sys.executable, "-m", "tests.support.lightning_runs", "kills"]
    command += [str(tmp_path_factory.mktemp("killed")), str(count)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, one in found.items():
        bad = f"unresumable {len(one['unresumable'])}, different {len(one['different'])}"
        sys.stdout.write(f"{name}: {one['killed']} kills, {bad}\n")
    return found


@pytest.mark.parametrize("kind", ["at once, link", "behind the loop, link", "behind the loop, copy"])
def test_a_training_that_is_killed_at_any_step_of_a_save_resumes_as_if_it_had_not_been(killed, kind):
    assert killed[kind]["expected"] == killed["stock, link"]["expected"]
    assert killed[kind]["killed"] > 0
    assert killed[kind]["unresumable"] == killed[kind]["different"] == []


@pytest.mark.filterwarnings("ignore")  # of the import
def test_the_example_resumes(tmp_path, capsys):
    example = runpy.run_path(str(REPOSITORY / "examples" / "with_lightning.py"))
    losses = [example["main"](str(tmp_path / "run")) for _ in range(2)]
    assert losses[0] == losses[1] < 0.1
    assert "from step 0\n" in capsys.readouterr().out
    assert len(listed(tmp_path / "run")) == 3


@pytest.mark.filterwarnings("ignore")  # of the import
def test_the_page_shows_lines_of_the_example_and_lines_that_run(tmp_path, monkeypatch):
    import lightning

    from marlin_ckpt.integrations.lightning import MarlinCheckpointIO

    page = (REPOSITORY / "docs" / "how-to" / "lightning.md").read_text()
    example = (REPOSITORY / "examples" / "with_lightning.py").read_text()
    (difference,) = re.findall(r"```diff\n(.*?)```", page, re.DOTALL)
    added = [line[1:].strip() for line in difference.splitlines() if line.startswith("+")]
    assert len(added) == 2
    assert all(line in example for line in added)
    (fabric,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(2, 2)
    given = {"lightning": lightning, "MarlinCheckpointIO": MarlinCheckpointIO, "model": model}
    exec(fabric, given | {"optimizer": torch.optim.AdamW(model.parameters())})
    found = marlin_ckpt.verify("checkpoints/step=1.ckpt")
    assert found.status is marlin_ckpt.Status.INTACT
