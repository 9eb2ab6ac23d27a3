"""A small module that one rank of a run lets fail, end or wait, and the ranks of a command, forked."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from marlin_ckpt.arguments import SpiralArguments
from marlin_ckpt.training import preemption
from marlin_ckpt.training.toys.spiral import Spiral
from tests.support import warm
from tests.support.folders import REPOSITORY

PATIENCE_S = 90.0


class Troubled(Spiral):
    """Learns the spirals until a rank has come to a step, where it does what it was told to do.

    Attributes:
        does: `raise`, `kill`, `signal` (SIGTERM) or `waits` (for a signal), at the rank `at[0]` in the step
            `at[1]`, at the first start of a launch alone; or `print`, at all ranks in each step.
    """

    def __init__(self, does: str = "", at: list[int] | None = None, points: int = 48) -> None:
        super().__init__(SpiralArguments(points=points))
        self.does, self.at = does, at

    def train_step(self, global_step, batch, device):
        is_first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if self.does == "print":
            sys.stdout.write(f"print of {os.environ['RANK']}\n")
        elif self.at == [int(os.environ.get("RANK", "0")), global_step] and is_first:
            if self.does == "raise":
                raise ValueError("of one rank")
            if self.does == "waits":
                wait_for_stop()
            else:
                os.kill(os.getpid(), signal.SIGKILL if self.does == "kill" else signal.SIGTERM)
        return super().train_step(global_step=global_step, batch=batch, device=device)


def wait_for_stop() -> None:
    """Says that it waits, and returns once a signal has asked the run to stop."""
    sys.stderr.write("waits for a signal\n")
    sys.stderr.flush()
    while not preemption._listening[0].stop:
        time.sleep(0.01)


class Ended(NamedTuple):
    """How a rank of a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def config(directory: Path, *, name: str = "run.yaml", backend: str = "ddp", **arguments) -> Path:
    """Writes a configuration that trains `Troubled` in nine steps of three epochs."""
    path = directory / name
    path.write_text(
        f"module: {{name: 'tests.support.rank_modules:Troubled', args: {arguments}}}\n"
        f"trainer: {{epochs: 3, train_batch_size: 12, device: cpu, backend: {backend}, index_by: step, "
        "max_train_steps_per_epoch: 3}\n"
        f"checkpointer: {{save_dir: {directory}/checkpoints, model_state_save_dir: null, period: 2}}\n"
    )
    return path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run_ranks(directory: Path, world_size: int, *arguments: str | Path, **environment: str) -> list[Ended]:
    """Runs `marlin-ckpt` as so many ranks, as srun starts them: without torchrun, forked."""
    given = {
        **os.environ, **environment, "PYTHONPATH": os.fspath(REPOSITORY), "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    processes = []
    with contextlib.ExitStack() as stack:
        for rank in range(world_size):
            streams = [
                stack.enter_context(open(directory / f"{name}-{rank}", "wb")) for name in ("out", "err")
            ]
            command = [sys.executable, "-m", "marlin_ckpt", *map(os.fspath, arguments)]
            processes.append(
                warm.Popen(
                    command, env={**given, "RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=directory,
                    stdin=subprocess.DEVNULL, stdout=streams[0], stderr=streams[1],
                )
            )  # fmt: skip
        for one in processes:
            try:
                one.wait(PATIENCE_S)
            finally:
                one.kill()
    return [
        Ended(one.wait(), *((directory / f"{name}-{rank}").read_text() for name in ("out", "err")))
        for rank, one in enumerate(processes)
    ]
