"""Trainings with PyTorch-Ignite for the tests of its adapter; see peer_kills.py."""

from __future__ import annotations

import functools
import glob
import os
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

import marlin_ckpt
from marlin_ckpt.integrations.ignite import MarlinSaver
from tests.support.peer_kills import Steps, answer, digest, kills

EPOCHS, STEPS_AN_EPOCH = 4, 3


class Training:
    """A model that is trained by a step that depends on nothing but the state and its number."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(6, 3)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.engine = Engine(self._step)
        self.to_save = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "trainer": self.engine,
        }

    def _step(self, engine: Engine, batch: int) -> float:
        data = torch.Generator().manual_seed(1000 * engine.state.epoch + batch)
        self.optimizer.zero_grad()
        loss = self.model(torch.randn(4, 6, generator=data)).square().mean()
        loss.backward()
        self.optimizer.step()
        if batch == STEPS_AN_EPOCH - 1:
            self.scheduler.step()
        return loss.item()

    def run(self) -> str:
        if self.engine.state.epoch < EPOCHS:  # Ignite starts a training that has ended from the first epoch
            self.engine.run(range(STEPS_AN_EPOCH), max_epochs=EPOCHS)
        return digest(self.model.state_dict())


def with_ours(directory: str, *, asynchronous: bool, n_saved: int) -> str:
    """Trains with the adapter, from the newest intact file if there is one."""
    training = Training()
    with MarlinSaver(directory, asynchronous=asynchronous, require_empty=False) as saver:
        handler = Checkpoint(training.to_save, saver, n_saved=n_saved, include_self=True)
        training.engine.add_event_handler(Events.EPOCH_COMPLETED, handler)
        if os.path.isdir(directory) and glob.glob(f"{directory}/*.pt"):
            marlin_ckpt.load(directory, into={**training.to_save, "checkpointer": handler})
        return training.run()


def with_stock(directory: str, *, n_saved: int) -> str:
    """Trains as a script of Ignite's users does; a directory that has lost all its files is an error."""
    training = Training()
    began = os.path.join(directory, "saved-once")
    handler = Checkpoint(
        training.to_save, DiskSaver(directory, require_empty=False), n_saved=n_saved, include_self=True
    )
    training.engine.add_event_handler(Events.EPOCH_COMPLETED, handler)
    training.engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: Path(began).touch())
    files = glob.glob(f"{directory}/*.pt")
    if files:
        newest = max(files, key=lambda name: int(name.rpartition("_")[2].removesuffix(".pt")))
        Checkpoint.load_objects({**training.to_save, "checkpointer": handler}, Path(newest))
    elif os.path.exists(began):
        raise FileNotFoundError("an epoch was saved, and no file is there any more")
    return training.run()


def watch(steps: Steps) -> None:
    steps.watch_system_calls()


def run_kills(directory: Path, count: int, n_saved: int) -> dict[str, Any]:
    with_ours(str(directory / "warm"), asynchronous=True, n_saved=1)  # imports for seconds
    found = {}
    for name, train in {
        "at once": functools.partial(with_ours, asynchronous=False, n_saved=n_saved),
        "behind the loop": functools.partial(with_ours, asynchronous=True, n_saved=n_saved),
        "stock": functools.partial(with_stock, n_saved=n_saved),
    }.items():
        found[name] = kills(directory / name, train, watch, count)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer({"kills": run_kills})
