"""Two processes that train with Accelerate save into one folder, together or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import marlin_ckpt
from tests.support.accelerate_runs import EPOCHS
from tests.support.folders import REPOSITORY


def train(directory: Path, *, is_failing: bool = False) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.support.accelerate_runs", "processes", str(directory), json.dumps(is_failing)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = (one for one in done.stdout.replace("[]", "").splitlines() if one.startswith("["))
    return json.loads(found)


def states(directory: Path) -> list[str]:
    return sorted(os.listdir(directory / "checkpoints"))


def test_where_one_process_fails_all_raise_and_the_run_goes_on_from_the_state_before(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    assert whole[0]["found"] == whole[1]["found"]
    failed = train(tmp_path / "run", is_failing=True)
    assert "another process has failed to save: OSError('no space on this node')" in failed[0]["found"]
    assert failed[1]["found"] == "OSError: no space on this node"
    assert states(tmp_path / "run") == [f"checkpoint_{number}" for number in range(EPOCHS - 2)]

    resumed = train(tmp_path / "run")
    assert [one["began"] for one in resumed] == [EPOCHS - 2, EPOCHS - 2]
    assert [one["found"] for one in resumed] == [one["found"] for one in whole]
    last = tmp_path / "run" / "checkpoints" / states(tmp_path / "run")[-1]
    assert marlin_ckpt.verify(last).status.is_sound
    assert (last / "random_states_1.pkl").is_file()
