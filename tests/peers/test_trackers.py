"""What `on_durable` hands to Weights & Biases and to MLflow, in their offline modes, is the checkpoint."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import marlin_ckpt
from tests.support.folders import REPOSITORY


def _run(name: str, directory: Path, **environment: str) -> str:
    command = [sys.executable, str(REPOSITORY / "examples" / f"{name}.py"), str(directory / "saved")]
    (directory / "saved").mkdir()
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout + done.stderr


def test_mlflow_has_each_checkpoint_as_it_is_in_the_one_run_of_the_training(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    store = (tmp_path / "mlruns").as_uri()
    _run("with_mlflow", tmp_path, MLFLOW_TRACKING_URI=store, MLFLOW_ALLOW_FILE_STORE="true")
    (run,) = (tmp_path / "mlruns").glob("*/*/meta.yaml")  # `mlflow.log_artifact` would start one more
    for name in ("step_5.pt", "step_10.pt"):
        logged = run.parent / "artifacts" / "checkpoints" / name
        assert logged.read_bytes() == (tmp_path / "saved" / name).read_bytes()
        assert marlin_ckpt.verify(str(logged)).status is marlin_ckpt.Status.INTACT


def _records(log: bytes) -> Iterator[bytes]:
    """Those of a log of wandb's: a head of 7 bytes, then in blocks of 32 KiB the parts of records."""
    place, record = 7, b""
    while place + 7 <= len(log):
        left = -place % 32768
        if 0 < left < 7:  # no part begins so near a block's end
            place += left
            continue
        length, part = struct.unpack_from("<HB", log, place + 4)
        record += log[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def test_wandb_has_a_copy_of_each_checkpoint_under_its_name_and_step(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    cache = tmp_path / "cache"
    _run("with_wandb", tmp_path, WANDB_MODE="offline", WANDB_DATA_DIR=str(cache), WANDB_CACHE_DIR=str(cache))
    (run,) = (tmp_path / "saved" / "wandb").glob("offline-run-*/run-*.wandb")
    artifacts = [Record.FromString(record).artifact for record in _records(run.read_bytes())]
    logged = {
        json.loads(artifact.metadata)["step"]: (entry.path, Path(entry.local_path))
        for artifact in artifacts
        for entry in artifact.manifest.contents
    }
    assert [*logged] == [5, 10]
    for step, (name, copy) in logged.items():
        assert name == f"step_{step}.pt"
        assert copy.is_relative_to(cache)  # the upload needs the checkpoint itself no more
        assert copy.read_bytes() == (tmp_path / "saved" / name).read_bytes()
