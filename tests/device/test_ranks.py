"""Ranks whose tensors are on a device: sharded saves and loads, and runs that are stopped and go on.

Two ranks share one device, over gloo; NCCL takes one rank a device, and so is tried with one.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import ranks
from tests.support.device_runs import path
from tests.support.folders import REPOSITORY


@pytest.mark.parametrize("asynchronous", [False, True], ids=["at once", "behind"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_what_ranks_have_on_a_device_is_saved_together_and_goes_on_as_it_was(
    tmp_path, device, world_size: int, asynchronous: bool
):
    path = str(tmp_path / "model_2.dcp")
    found = ranks.run(
        world_size, "tests.support.device_ranks:trained_saved_and_loaded",
        path=path, device=device.type, asynchronous=asynchronous,
    )  # fmt: skip
    assert found == [[]] * world_size


@pytest.mark.parametrize("backend", ["ddp", "fsdp2"])
def test_a_run_of_one_rank_by_torchrun_that_is_stopped_ends_as_if_it_had_not_been(
    tmp_path, device, backend: str
):
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": path()}, check=False,
        )  # fmt: skip

    def train(folder: str, epochs: int, *more: str) -> None:
        place = tmp_path / folder
        done = command(
            "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "marlin_ckpt", "train",
            "--config", "configs/ddp.yaml", "--set", f"trainer.backend={backend}",
            "--set", f"trainer.device={device.type}", "--set", f"trainer.epochs={epochs}",
            "--set", f"checkpointer.save_dir={place}", "--set", f"checkpointer.model_state_save_dir={place}",
            *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    train("whole", 2)
    train("cut", 1)
    train("cut", 2, "--resume")
    last = min(one.name for one in (tmp_path / "whole").iterdir() if one.name.startswith("model_1"))
    compared = command("marlin_ckpt", "diff", str(tmp_path / "whole" / last), str(tmp_path / "cut" / last))
    assert compared.returncode == 0, compared.stdout + compared.stderr
