"""Trainings with Lightning for the tests of its adapter; see peer_kills.py."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins.io import AsyncCheckpointIO

from marlin_ckpt.integrations.lightning import MarlinCheckpointIO
from tests.support.peer_kills import Steps, answer, digest, kills

STEPS, STEPS_AN_EPOCH = 14, 4
_MANY = 10  # kills, from which on those of the other package are worth their time


class Net(lightning.LightningModule):
    """A model whose every step depends on nothing but the state and the number of the step."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 1)
        )

    def training_step(self, _batch: Any, _number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.trainer.global_step)
        rows = torch.randn(8, 4, generator=generator).to(self.device)
        loss = self.layers(rows).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def trainer_for(
    directory: str, plugin: Any, steps: int = STEPS, hardware: dict[str, Any] | None = None, **options: Any
) -> lightning.Trainer:
    """Makes one; the hardware is the CPU by default, the options are those of ModelCheckpoint."""
    saving = {"monitor": "loss", "save_top_k": 1, "every_n_train_steps": 2, **options}
    return lightning.Trainer(
        callbacks=[ModelCheckpoint(directory, **saving)], default_root_dir=directory,
        enable_model_summary=False, enable_progress_bar=False, logger=False, max_steps=steps,
        plugins=[plugin], **(hardware or {"accelerator": "cpu"}),
    )  # fmt: skip


def batches() -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(torch.zeros(STEPS_AN_EPOCH, 1))


class _LastWasThere(lightning.Callback):
    """Refuses to begin anew where last.ckpt has led to a file once."""

    def __init__(self, directory: str) -> None:
        self._last, self._seen = os.path.join(directory, "last.ckpt"), os.path.join(directory, "seen")

    def on_train_start(self, trainer: lightning.Trainer, _module: Any) -> None:
        if trainer.global_step == 0 and os.path.exists(self._seen):
            raise FileNotFoundError("last.ckpt was there, and the training begins anew")

    def on_train_batch_start(self, *_: Any) -> None:
        if os.path.exists(self._last):
            Path(self._seen).touch()


def train(directory: str, *, plugin: Callable[[], Any], save_last: Any) -> str:
    """Trains as a script does that goes on from the last checkpoint, if there is one."""
    quieten()
    trainer = trainer_for(directory, plugin(), save_last=save_last)
    trainer.callbacks.insert(0, _LastWasThere(directory))
    net = Net()
    trainer.fit(net, batches(), ckpt_path="last")
    return digest(net.state_dict())


def quieten() -> None:
    warnings.filterwarnings("ignore", module="(lightning|torch)")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def watch(steps: Steps) -> None:
    steps.watch_system_calls()


def run_kills(directory: Path, count: int) -> dict[str, Any]:
    behind = functools.partial(MarlinCheckpointIO, async_save=True)
    kinds: dict[str, Callable[[str], str]] = {
        "at once, link": functools.partial(train, plugin=MarlinCheckpointIO, save_last="link"),
        "behind the loop, link": functools.partial(train, plugin=behind, save_last="link"),
        "behind the loop, copy": functools.partial(train, plugin=behind, save_last=True),
        "stock, link": functools.partial(train, plugin=TorchCheckpointIO, save_last="link"),
        "stock AsyncCheckpointIO, link": functools.partial(train, plugin=AsyncCheckpointIO, save_last="link"),
    }
    train(str(directory / "warm"), plugin=behind, save_last=True)  # imports for seconds
    found = {}
    for name, one in kinds.items():
        is_theirs = name.startswith("stock")
        try:
            found[name] = kills(directory / name, one, watch, 0 if is_theirs and count < _MANY else count)
        except AssertionError as error:  # AsyncCheckpointIO may remove a file while it is saved
            if not is_theirs:
                raise
            found[name] = {
                "expected": "",
                "killed": 0,
                "unresumable": [f"undisturbed: {error}"],
                "different": [],
            }
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer({"kills": run_kills})
