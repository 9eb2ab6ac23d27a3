"""What `on_durable` hands to Weights & Biases and to MLflow, in their offline modes, is the checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_mlflow_has_each_checkpoint_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    store = (tmp_path / "mlruns").as_uri()
    _run("with_mlflow", tmp_path, MLFLOW_TRACKING_URI=store, MLFLOW_ALLOW_FILE_STORE="true")
    for name in ("step_5.pt", "step_10.pt"):
        (logged,) = (tmp_path / "mlruns").rglob(f"artifacts/checkpoints/{name}")
        assert logged.read_bytes() == (tmp_path / "saved" / name).read_bytes()
        assert marlin_ckpt.verify(str(logged)).status is marlin_ckpt.Status.INTACT


def test_wandb_has_the_name_and_digest_of_each_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    cache = tmp_path / "cache"
    _run("with_wandb", tmp_path, WANDB_MODE="offline", WANDB_DATA_DIR=str(cache), WANDB_CACHE_DIR=str(cache))
    (run,) = (tmp_path / "saved" / "wandb").glob("offline-run-*/run-*.wandb")
    record = run.read_bytes()
    staged = {path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    for name in ("step_5.pt", "step_10.pt"):
        assert name.encode() in record
        assert (tmp_path / "saved" / name).read_bytes() in staged
