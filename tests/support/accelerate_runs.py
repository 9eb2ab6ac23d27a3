"""Trainings with Accelerate for the tests of its adapter; see peer_kills.py."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import Any

import accelerate.utils.other
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, gather_object, set_seed

from marlin_ckpt import CheckpointNotFoundError, StorageError
from marlin_ckpt.integrations.accelerate import protect
from tests.support.peer_kills import Steps, answer, digest, kills

EPOCHS = 4


class Epoch:
    """What is registered for checkpointing: the number of epochs that are done."""

    def __init__(self) -> None:
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


class Training:
    """Two models with optimizers of their own; dropout and shuffling draw random numbers."""

    def __init__(
        self,
        directory: str,
        *,
        is_ours: bool,
        limit: int | None = 2,
        named: bool = True,
        cpu: bool = True,
        **options: Any,
    ) -> None:
        config = ProjectConfiguration(directory, automatic_checkpoint_naming=named, total_limit=limit)
        self.accelerator = Accelerator(cpu=cpu, project_config=config, **options)
        if is_ours:
            assert protect(self.accelerator) is self.accelerator
        set_seed(0)
        rows = torch.utils.data.TensorDataset(torch.randn(12, 6))
        models = [torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Dropout(0.3)) for _ in range(2)]
        optimizers = [torch.optim.AdamW(one.parameters(), lr=0.05) for one in models]
        schedulers = [torch.optim.lr_scheduler.StepLR(one, 3) for one in optimizers]
        # Of several processes Accelerate saves no state of the generator that shuffles for all of them.
        alone = self.accelerator.num_processes == 1
        loader = torch.utils.data.DataLoader(rows, batch_size=4 if alone else 2, shuffle=alone)
        prepare = self.accelerator.prepare
        self.models = [prepare(one) for one in models]
        self.optimizers, self.schedulers = [prepare(one) for one in optimizers], [*map(prepare, schedulers)]
        self.loader = prepare(loader)
        self.epoch = Epoch()
        self.accelerator.register_for_checkpointing(self.epoch)

    def train(self, epochs: int = EPOCHS, output_dir: str | None = None) -> str:
        while self.epoch.done < epochs:
            for (batch,) in self.loader:
                for model, optimizer, scheduler in zip(
                    self.models, self.optimizers, self.schedulers, strict=True
                ):
                    self.accelerator.backward(model(batch).square().mean())
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
            self.epoch.done += 1
            self.accelerator.save_state(output_dir)
        return self.digest()

    def digest(self) -> str:
        states = itertools.chain(*(one.state_dict().items() for one in self.models))
        return digest({f"{number} {name}": value for number, (name, value) in enumerate(states)})


def with_ours(directory: str) -> str:
    """Trains with the adapter, from the newest intact folder if there is one."""
    training = Training(directory, is_ours=True)
    try:
        training.accelerator.load_state()
    except CheckpointNotFoundError:
        assert not training.epoch.done
    return training.train()


def with_stock(directory: str) -> str:
    """Trains as a script of Accelerate's users does, which continues at the number that it has to know."""
    training = Training(directory, is_ours=False)
    if os.path.isdir(os.path.join(directory, "checkpoints")):
        training.accelerator.load_state()
        training.accelerator.project_configuration.iteration = training.epoch.done
    return training.train()


def watch(steps: Steps) -> None:
    steps.watch_system_calls()
    steps.watch_writer(torch, "save", lambda _, path, *__, **___: path)
    steps.watch_writer(accelerate.utils.other, "safe_save_file", lambda _, path, **__: path)


def run_kills(directory: Path, count: int) -> dict[str, Any]:
    with_ours(str(directory / "warm"))  # imports for seconds
    trainings = {"ours": with_ours, "stock": with_stock}
    return {name: kills(directory / name, train, watch, count) for name, train in trainings.items()}


def run_processes(directory: Path, is_failing: bool) -> list[dict[str, Any]]:
    """In one of several processes: trains; returns, in the first, how it went in each of them."""
    training = Training(str(directory), is_ours=True)
    rank = training.accelerator.process_index
    with contextlib.suppress(CheckpointNotFoundError):
        training.accelerator.load_state()
    began = training.epoch.done
    if is_failing:
        save = torch.save

        def fail(state: Any, path: Any, *args: Any) -> None:
            if training.epoch.done == EPOCHS - 1 and rank == 1:
                raise OSError("no space on this node")
            save(state, path, *args)

        torch.save = fail
    try:
        found = training.train()
    except (OSError, StorageError) as error:
        found = f"{type(error).__name__}: {error}"
    answers = gather_object([{"rank": rank, "began": began, "found": found}])
    return answers if rank == 0 else []


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer({"kills": run_kills, "processes": run_processes})
