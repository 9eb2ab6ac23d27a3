"""The whole training of the page on loops of one's own: killed and stopped, it ends as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import marlin_ckpt
from tests.support import warm
from tests.support.equality import is_same
from tests.support.pages import blocks

TRAINING = blocks("own-loop", "python")[0]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAINING)
    return path


def _train(
    script: Path, directory: Path, until: str = "", number: int = signal.SIGKILL
) -> tuple[int, list[str]]:
    """Runs the training, and sends it a signal when it has printed a line that begins so."""
    directory.mkdir(exist_ok=True)
    said = []
    with warm.Popen(
        [sys.executable, str(script)], cwd=directory, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            said.append(line.rstrip())
            if until and line.startswith(until):
                os.kill(process.pid, number)
                until = ""
    return process.returncode, said


def test_a_training_that_is_killed_and_stopped_ends_with_the_same_state(script: Path, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    code, said = _train(script, straight)
    assert (code, said[0], said[-1].split("  ")[0]) == (0, "starts from the beginning", "step 45")
    code, _ = _train(script, killed, "step 10")
    assert code == -signal.SIGKILL
    code, stopped = _train(script, killed, "step 25", signal.SIGTERM)
    assert stopped[0] in ("goes on after step 5", "goes on after step 10")
    assert code == 128 + signal.SIGTERM
    code, resumed = _train(script, killed)
    assert code == 0
    step = stopped[-1].split("  ")[0].removeprefix("step ")  # what the signal had it save
    assert resumed[0] == f"goes on after step {step}"
    states = [
        marlin_ckpt.load(directory / "runs" / "gpt" / "model_45.pt") for directory in (straight, killed)
    ]
    assert is_same(*states)
    assert _train(script, killed) == (0, ["goes on after step 45"])
