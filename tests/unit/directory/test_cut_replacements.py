"""A kill cuts a replacement where a file system cannot exchange two names: no start misses what was there."""

from __future__ import annotations

import json
import os

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.cli.main import main
from tests.support.rank_modules import config


def cut(path) -> None:
    """Leaves what a process leaves that is killed between the two renames; see `storage.local.staging`."""
    directory, name = os.path.split(path)
    os.rename(path, os.path.join(directory, f".{name}.marlin-old"))


def test_a_checkpointer_loads_what_a_kill_has_left_without_its_name(make_checkpointer, make_checkpoint):
    one = make_checkpointer(layout="sharded")
    cut(one.save(make_checkpoint(3.0), 3))

    assert make_checkpointer(checkpoint=False).load().trainer_state is None  # it is not this one's to rename
    assert make_checkpointer(layout="sharded").load().trainer_state == {"last_epoch": 3}


def test_a_directory_loads_it(tmp_path):
    path = tmp_path / "model_5.dcp"
    marlin_ckpt.save({"w": torch.ones(2)}, path)
    cut(path)

    assert CheckpointDirectory(tmp_path).load()["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("resumes", [True, False])
def test_train_sees_it_before_it_decides_how_to_start(tmp_path, capsys, resumes):
    run = "train", "--config", str(config(tmp_path, backend="sp")), "--json"
    few = (
        "--set",
        "trainer.epochs=1",
        "--set",
        "checkpointer.layout=sharded",
        "--set",
        "checkpointer.period=9",
    )
    assert main([*run, *few]) == 0
    capsys.readouterr()
    cut(tmp_path / "checkpoints" / "model_3.dcp")

    code = main([*run, "--resume"] if resumes else [*run])

    document = json.loads(capsys.readouterr().out)
    assert code == (0 if resumes else 2)
    if resumes:
        assert document["resumed_from"].endswith("/model_3.dcp")
