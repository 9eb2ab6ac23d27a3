"""Trainings with the Trainer of Transformers that are killed, or run in two processes, forked from this one.

`python -m tests.support.trainer_kills all DIRECTORY KILLS KILLS-OF-STOCK`; see peer_kills.py.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import socket
import traceback
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tests.support.peer_kills import Steps, answer, digest, kills
from tests.support.trainer_runs import trainer

_CHECKPOINT = re.compile(r"checkpoint-[0-9]+")


def train(directory: str, kind: str) -> str:
    """Trains from what is there to the end, as users' scripts do; returns a digest of the weights."""
    best = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    one = trainer(directory, kind, greater_is_better=False, **best)
    one.train(resume_from_checkpoint=is_begun(directory))
    return digest(one.model.state_dict())


def is_begun(directory: str) -> bool:
    return os.path.isdir(directory) and any(map(_CHECKPOINT.fullmatch, os.listdir(directory)))


def watch(steps: Steps) -> None:
    steps.watch_system_calls()
    steps.watch_writer(torch, "save", lambda _, path, *__, **___: path)
    steps.watch_writer(safetensors.torch, "save_file", lambda _, path, *__, **___: path)


def run_kills(directory: Path, ours: int, stock: int) -> dict[str, Any]:
    """So many kills of each kind."""
    counts = {"ours": ours, "stock": stock}
    return {
        kind: kills(directory / kind, functools.partial(train, kind=kind), watch, count)
        for kind, count in counts.items()
    }


def in_two_processes(directory: str, *, fails: bool = False) -> list[str]:
    """Trains in two processes from the newest folder; returns the digest, or the error, of each.

    With `fails` the disk of the second one is full.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    resume = is_begun(directory)
    pids = [
        os.fork() or _train_one_of_two(directory, resume, rank, port, fails and rank == 1)
        for rank in range(2)
    ]
    for pid in pids:
        os.waitpid(pid, 0)
    return [Path(f"{directory}.{rank}").read_text() for rank in range(2)]


def _train_one_of_two(directory: str, resume: bool, rank: int, port: int, fails: bool) -> int:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if fails:
        torch.save = _fail
    try:
        one = trainer(directory, save_total_limit=3, per_device_train_batch_size=2, ddp_backend="gloo")
        one.train(resume_from_checkpoint=resume)
        said = digest(one.model.state_dict())
    except BaseException:  # noqa: BLE001 - the test looks at it
        said = traceback.format_exc()
    Path(f"{directory}.{rank}").write_text(said)
    os._exit(0)


def _fail(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_ranks(directory: Path) -> dict[str, Any]:
    """Trains in two processes, and again from the second newest folder, once the newest is damaged."""
    one, other = str(directory / "whole"), str(directory / "resumed")
    whole = in_two_processes(one)
    shutil.copytree(one, other)
    os.truncate(f"{other}/checkpoint-6/rng_state_1.pth", 99)
    os.remove(f"{other}/checkpoint-5/rng_state_0.pth")
    resumed = in_two_processes(other)
    for folder in Path(other).glob("checkpoint-*"):
        shutil.rmtree(folder / ".marlin")
        (folder / "trainer_state.json").unlink()
    refused = in_two_processes(other)
    failed = in_two_processes(str(directory / "failed"), fails=True)
    return {"whole": whole, "resumed": resumed, "refused": refused, "failed": failed}


def run_all(directory: Path, ours: int, stock: int) -> dict[str, Any]:
    return {"ranks": run_ranks(directory), "kills": run_kills(directory, ours, stock)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer({"all": run_all})
