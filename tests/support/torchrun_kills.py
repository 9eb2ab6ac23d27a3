"""Kills trainings that torchrun runs on two or three ranks at random moments; prints, as JSON, what is left.

`python torchrun_kills.py DIRECTORY KIND=TIMES ...`. Each training goes on from what the one before has left.
A kind is `fresh`, where each save has its own name, or `over`, where it replaces the one before; with
`_behind`, saves are asynchronous.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import marlin_ckpt
from marlin_ckpt import ModuleInterface
from tests.support.folder_checkpoints import staged
from tests.support.folders import REPOSITORY

PATIENCE_S = 90.0
_POLL_S = 0.005
_ROWS, _COLUMNS = 1200, 256  # one MiB of weights
_CONFIG = """
module: {{name: "tests.support.torchrun_kills:Counted"}}
trainer: {{epochs: 50, train_batch_size: 6, device: cpu, backend: fsdp2, clip_grads: false, {when}}}
checkpointer:
  {{save_dir: {directory}, model_state_save_dir: null, period: 1, async_save: {behind}, keep: {{last: 3}}}}
"""
_WHEN = {"fresh": "index_by: step", "over": "index_by: epoch, checkpoint_every_minutes: 0.0005"}


class Counted(ModuleInterface):
    """Each of its weights is the number of steps that it has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(_ROWS, _COLUMNS))

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        return [torch.optim.SGD(self.parameters(), lr=1.0)], []

    def get_train_dataloader(self, sampler, batch_size):
        data = torch.arange(60_000)
        return DataLoader(data, batch_size, sampler=sampler(data))

    def get_val_dataloaders(self, sampler, batch_size):
        return None

    def train_step(self, global_step, batch, device):
        return -self.weight.sum()

    def val_step(self, global_step, batch, device):
        raise AssertionError


class Run:
    """A training that torchrun has started."""

    def __init__(self, directory: Path, config: Path, world_size: int) -> None:
        self._directory, self._history = directory, directory / ".marlin-ckpt" / "events.jsonl"
        self._before = len(self.saved())
        self._said = directory.with_name("said")
        command = [
            *(
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(world_size),
            ),
            *("-m", "marlin_ckpt", "train", "--config", str(config), "--resume"),
        ]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def saved(self) -> list[dict[str, Any]]:
        """What the history says was saved, whole lines alone."""
        if not self._history.exists():
            return []
        lines = self._history.read_text().split("\n")[:-1]
        return [one for one in map(json.loads, lines) if one["event"] == "saved"]

    def wait(self, saves: int) -> None:
        """Waits until so many saves were reported."""
        until = time.monotonic() + PATIENCE_S
        while len(self.saved()) < self._before + saves:
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill_all()
                raise SystemExit(f"the training has not saved: {self._said.read_text()}")
            time.sleep(_POLL_S)

    def ranks(self) -> list[int]:
        found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [*map(int, found.split())]

    def kill(self, victims: list[int]) -> None:
        """Kills some processes, and waits for torchrun, which ends the others."""
        for one in victims:
            os.kill(one, signal.SIGKILL)
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self.kill_all()

    def kill_all(self) -> None:
        """Kills what is left of the whole start."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def errors(self) -> list[str]:
        """What was printed of errors."""
        return [line for line in self._said.read_text().splitlines() if "error: " in line]


def held_by(path: Path) -> int | str:
    """The step whose state a folder holds, or what is wrong with it."""
    verdict = marlin_ckpt.verify(path)
    if verdict.status is not marlin_ckpt.Status.INTACT:
        return f"{verdict.status}: {verdict.reason}"
    state = marlin_ckpt.load(path)
    steps = [*map(int, state["module_interface_state"]["weight"].unique())]
    steps.append(state["trainer_backend_state"]["global_step_completed"])
    return steps[0] if len({*steps}) == 1 else f"a mixture of {sorted({*steps})}"


class Kills:
    """Kills one training after the other in a directory, and notes what that left."""

    def __init__(self, directory: Path, kind: str) -> None:
        self._directory = directory / kind
        self._directory.mkdir()
        name, _, behind = kind.partition("_")
        self._config = directory / f"{kind}.yaml"
        filled = _CONFIG.format(when=_WHEN[name], directory=self._directory, behind=str(bool(behind)).lower())
        self._config.write_text(filled)
        self._rng = random.Random(f"20261127 {kind}")
        self.found: dict[str, Any] = dict.fromkeys(("kills", "old", "new", "in_mid_save"), 0)
        self.found |= {one: [] for one in ("torn", "lost", "left", "unlike")}

    def kill(self) -> None:
        found = self.found
        world_size = 2 + found["kills"] % 2
        leftovers = {*staged(self._directory)}
        run = Run(self._directory, self._config, world_size)
        run.wait(1)
        began = time.monotonic()
        run.wait(4)
        time.sleep(self._rng.uniform(0, (time.monotonic() - began) / 2))
        ranks = run.ranks()
        victims = ranks if found["kills"] % 3 == 2 else [self._rng.choice(ranks)]
        run.kill(victims)
        found["kills"] += 1
        found["in_mid_save"] += bool({*staged(self._directory)} - leftovers)
        if left := leftovers & {*staged(self._directory)}:
            found["left"].append(sorted(left))
        errors = run.errors()
        # Beside the error, that a save under way has failed for the same reason may be said.
        if bool(errors) != (len(victims) == 1) or not all(" has ended" in one for one in errors):
            found["unlike"].append([len(victims), errors])
        self._judge(run.saved()[-1])

    def _judge(self, reported: dict[str, Any]) -> None:
        held = {one.name: held_by(one) for one in sorted(self._directory.glob("*.dcp"))}
        self.found["torn"] += [one for one in held.items() if isinstance(one[1], str)]
        newest = max((one for one in held.values() if isinstance(one, int)), default=-1)
        if newest < reported["step"] or reported["name"] not in held:
            self.found["lost"].append([reported["name"], reported["step"], held])
        self.found["new" if newest > reported["step"] else "old"] += 1


if __name__ == "__main__":
    _, where, *campaigns = sys.argv
    results = {}
    for kind, times in (one.split("=") for one in campaigns):
        kills = Kills(Path(where), kind)
        for _ in range(int(times)):
            kills.kill()
        results[kind] = kills.found
    sys.stdout.write(json.dumps(results))
