"""What the adapters write of a resume: the checkpoint, and why newer ones were passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from marlin_ckpt.directory.history import reading
from marlin_ckpt.directory.history.events import Resumed
from tests.support.accelerate_runs import Training
from tests.support.trainer_runs import trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore:::lightning")


def resumes(directory: Path) -> list[tuple[str, dict[str, str]]]:
    events = reading.read(str(directory)).events
    return [(one.name, dict(one.passed_over)) for one in events if isinstance(one, Resumed)]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1 - len(data) // 4] ^= 1
    path.write_bytes(data)


def test_a_trainer_of_transformers_says_why_it_resumes_from_an_older_folder(tmp_path):
    trainer(str(tmp_path), save_total_limit=None).train()
    flip(tmp_path / "checkpoint-6" / "model.safetensors")
    (tmp_path / "checkpoint-5" / "scheduler.pt").unlink()
    trainer(str(tmp_path), save_total_limit=None).train(resume_from_checkpoint=True)
    passed_over = {
        "checkpoint-6": "corrupt: the CRC of model.safetensors does not hold",
        "checkpoint-5": "incomplete: scheduler.pt is missing",
    }
    assert resumes(tmp_path) == [("checkpoint-4", passed_over)]


def test_accelerate_says_why_it_loads_an_older_state(tmp_path):
    Training(str(tmp_path), is_ours=True, limit=None).train(3)
    flip(tmp_path / "checkpoints" / "checkpoint_2" / "optimizer_1.bin")
    training = Training(str(tmp_path), is_ours=True, limit=None)
    training.accelerator.load_state()
    training.train(3)
    ((name, passed_over),) = resumes(tmp_path)
    assert name == "checkpoints/checkpoint_1"
    assert passed_over == {"checkpoints/checkpoint_2": "corrupt: the CRC of optimizer_1.bin does not hold"}


def test_the_plugin_of_lightning_says_what_it_loads_in_place_of_a_damaged_last_file(tmp_path):
    from marlin_ckpt.integrations.lightning import MarlinCheckpointIO  # which warns

    plugin = MarlinCheckpointIO()
    for name in ("epoch=0-step=1.ckpt", "epoch=1-step=2.ckpt", "last.ckpt"):
        plugin.save_checkpoint({"global_step": 1, "layers": torch.ones(999)}, tmp_path / name)
    for name in ("epoch=1-step=2.ckpt", "last.ckpt"):
        flip(tmp_path / name)
    again = MarlinCheckpointIO()
    again.load_checkpoint(tmp_path / "last.ckpt")
    again.save_checkpoint({"global_step": 3, "layers": torch.ones(999)}, tmp_path / "epoch=2-step=3.ckpt")
    ((name, passed_over),) = resumes(tmp_path)
    assert name == "epoch=0-step=1.ckpt"
    assert {*passed_over} == {"epoch=1-step=2.ckpt", "last.ckpt"}
    assert all(passed_over.values())
