"""Trainings with the Trainer of Transformers that are killed while they save, or run in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from marlin_ckpt.directory import catalog
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.verdicts import Status
from tests.support.checkpoint_directories import listed
from tests.support.folders import REPOSITORY

FEW = 4


@pytest.fixture(scope="module")
def kills(cases) -> int:
    """How often a training is killed; `make test-peers` and the campaign kill it more often."""
    return int(os.environ.get("PEER_KILLS", cases(2, 100)))


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def found(kills, directory) -> dict[str, Any]:
    """What a process found that has imported Transformers once."""
    command = [sys.executable, "-m", "tests.support.trainer_kills", "all", str(directory), str(kills)]
    command.append(str(kills if kills > FEW else 1))
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_training_that_is_killed_at_any_step_of_a_save_resumes_as_if_it_had_not_been(found, kills):
    for kind, one in found["kills"].items():
        bad = len(one["unresumable"]), len(one["different"])
        sys.stdout.write(f"{kind}: {one['killed']} kills, unresumable {bad[0]}, different {bad[1]}\n")
    ours, stock = found["kills"]["ours"], found["kills"]["stock"]
    assert ours["expected"] == stock["expected"]
    assert ours["killed"] > 0
    assert ours["unresumable"] == ours["different"] == []
    if kills > FEW:  # the harness does find what is torn
        assert any("trainer_state.json" in one for one in stock["unresumable"])


def test_two_processes_write_one_folder_and_resume_from_the_same_one(found, directory):
    ranks = found["ranks"]
    (digest,) = {*ranks["whole"], *ranks["resumed"]}
    assert len(digest) == 64
    folders = [*(directory / "whole").glob("[!.]*")]
    assert sorted(one.name for one in folders) == [f"checkpoint-{step}" for step in (4, 5, 6)]
    for folder in folders:
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= {*os.listdir(folder)}
        assert verification.verify(catalog.entry(folder)).status is Status.INTACT
    assert ["checkpoints is intact" in one for one in ranks["refused"]] == [True, True]


def test_where_one_process_cannot_save_all_raise_and_nothing_is_left(found, directory):
    first, second = found["ranks"]["failed"]
    assert "StorageError: another process has failed to save: OSError(28," in first
    assert "OSError: [Errno 28] No space left on device" in second
    assert listed(directory / "failed") == []
