"""What the tests of asynchronous saves share."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.saving.copying import staging


def checkpointer(directory: Path, **options: Any) -> DefaultCheckpointer:
    return DefaultCheckpointer(
        DefaultCheckpointerArguments(
            save_dir=str(directory), load_dir=str(directory), **{"async_save": True, **options}
        )
    )


class Run:
    """A module with buffers and an optimizer with state, and a step that changes all of it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 2)
        )
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)

    def forward(self) -> None:
        self.module(torch.randn(4, 8)).square().sum().backward()

    def step(self) -> None:
        self.forward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.module.state_dict(), {"optimizer": self.optimizer.state_dict()}, {})


class Gate:
    """Holds every asynchronous save up before it writes, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        write = writer.write_image

        def held(*args: Any) -> Any:
            self.reached.set()
            assert self.opened.wait(60)
            return write(*args)

        monkeypatch.setattr(writer, "write_image", held)


class LateCopies:
    """Leaves all that may be copied late to whoever settles it, so that the test decides when that is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        work = staging.Copying.work
        held = threading.Event()

        def only_the_owner(copying: staging.Copying) -> None:
            if threading.current_thread().name == "marlin-ckpt save":
                assert held.wait(60)
            work(copying)

        self.release = held.set
        monkeypatch.setattr(staging.Copying, "work", only_the_owner)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)
