"""Small trainings with what makes asynchronous saves hard, and writers that do their worst."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from marlin_ckpt import Checkpoint, StorageError
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.saving.copying import staging
from tests.support.descriptions import describe

_Parameters = list[nn.Parameter]
_Optimizers = list[torch.optim.Optimizer]


def _several(parameters: _Parameters) -> _Optimizers:
    matrices = [one for one in parameters if one.ndim == 2]
    vectors = [one for one in parameters if one.ndim != 2]
    return [
        torch.optim.Muon(matrices[:1], lr=0.01),
        torch.optim.AdamW(matrices[1:], lr=0.01, amsgrad=True),
        torch.optim.SGD(vectors, lr=0.01, momentum=0.9),
    ]


OPTIMIZERS: dict[str, Callable[[_Parameters], _Optimizers]] = {
    "SGD": lambda of: [torch.optim.SGD(of, lr=0.01, momentum=0.9)],
    "AdamW foreach": lambda of: [torch.optim.AdamW(of, lr=0.01, foreach=True)],
    "AdamW fused": lambda of: [torch.optim.AdamW(of, lr=0.01, fused=True)],
    "AdamW single": lambda of: [torch.optim.AdamW(of, lr=torch.tensor(0.01), foreach=False)],
    "Adafactor": lambda of: [torch.optim.Adafactor(of)],
    "LBFGS": lambda of: [torch.optim.LBFGS(of, lr=0.1, max_iter=4, history_size=3)],
    "Muon": lambda of: [torch.optim.Muon([one for one in of if one.ndim == 2], lr=0.01)],
    "several": _several,
}


class _Tied(nn.Module):
    """Words in, words out, by one matrix; the statistics of a BatchNorm in between."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 8)
        self.inner = nn.Linear(8, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 12)
        self.head.weight = self.words.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.tanh(self.inner(self.words(words)))))


class Training:
    """A module, optimizers by name, a schedule and an average of the weights, the same for the same seed."""

    def __init__(self, optimizers: str, *, seed: int = 0, accumulated: int = 1, backend: str = "") -> None:
        torch.manual_seed(seed)
        self.module: Any = _Tied()
        self.optimizers = OPTIMIZERS[optimizers](list(self.module.parameters()))
        self.averaged = AveragedModel(self.module, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.schedules = [torch.optim.lr_scheduler.ExponentialLR(one, 0.99) for one in self.optimizers]
        self._accumulated = accumulated
        if backend:
            self.module = torch.compile(self.module, backend=backend)

    def forward(self) -> torch.Tensor:
        words = torch.randint(0, 12, (6,))
        loss: torch.Tensor = nn.functional.cross_entropy(self.module(words), words.roll(1))
        loss.backward()
        return loss

    def step(self) -> None:
        for _ in range(self._accumulated):
            self.forward()
        for optimizer in self.optimizers:
            if isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step(self._again)
            else:
                optimizer.step()
        self.module.zero_grad()
        for schedule in self.schedules:
            schedule.step()
        self.averaged.update_parameters(getattr(self.module, "_orig_mod", self.module))

    def _again(self) -> torch.Tensor:
        self.module.zero_grad()
        return self.forward()

    def checkpoint(self, number: int = 0) -> Checkpoint:
        states = {
            "optimizers": [one.state_dict() for one in self.optimizers],
            "schedules": [one.state_dict() for one in self.schedules],
            "average": self.averaged.state_dict(),
            "random": torch.get_rng_state(),
        }
        return Checkpoint(self.module.state_dict(), {"number": number}, states, {"number": number})


def described(checkpoint: Checkpoint) -> list[Any]:
    """What a file of it must hold, according to torch."""
    file = io.BytesIO()
    torch.save(checkpoint.payload(), file)
    file.seek(0)
    return describe(torch.load(file))


def described_file(path: str | os.PathLike[str]) -> list[Any]:
    return describe(torch.load(path))


def is_behind() -> bool:
    """Whether this is the thread that saves."""
    return threading.current_thread().name == "marlin-ckpt save"


class CopiesAtTheBarrier:
    """Has all that may be copied late copied as late as may be: when a step, or a call, waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        init, work, settle = staging.Copying.__init__, staging.Copying.work, staging.Copying.settle
        self.late_bytes = 0

        def begun(copying: Any, copies: Any, *args: Any, **how: Any) -> None:
            copying.settled = threading.Event()
            self.late_bytes += sum(copies.sizes)
            init(copying, copies, *args, **how)

        def left_to_the_barrier(copying: Any) -> None:
            if is_behind():
                assert copying.settled.wait(60)
            work(copying)

        def settled(copying: Any) -> tuple[str, ...]:
            moved = settle(copying)
            copying.settled.set()
            return moved

        monkeypatch.setattr(staging.Copying, "__init__", begun)
        monkeypatch.setattr(staging.Copying, "work", left_to_the_barrier)
        monkeypatch.setattr(staging.Copying, "settle", settled)


def without_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches off what notices that a tensor has changed."""
    init = staging.Copying.__init__
    monkeypatch.setattr(
        staging.Copying,
        "__init__",
        lambda copying, copies, _watched, *args, **how: init(
            copying, copies, staging.Watched(), *args, **how
        ),
    )


class Adversary:
    """A writer that does with each save, by the number in its metrics, what it was told to."""

    PLANS = ("writes", "slow", "blocked", "full", "full late", "dies", "blocked, full")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plans: dict[int, str] = {}
        self._opened: dict[int, threading.Event] = {}
        write = writer.write_image

        def hostile(path: Any, encoded: Any, manifest: Any, image: Any, check: Any, *how: Any) -> Any:
            number = int(manifest.metrics["number"])
            plan = self.plans[number]
            if "blocked" in plan:
                assert self._opened[number].wait(60)
            for _ in range(2000 if plan == "slow" else 0):
                os.sched_yield()
            error = RuntimeError if plan == "dies" else StorageError
            if plan.endswith(("full", "dies")):
                raise error(f"save {number} failed")

            def checked() -> None:
                check()
                if plan == "full late":
                    raise error(f"save {number} failed")

            return write(path, encoded, manifest, image, checked, *how)

        monkeypatch.setattr(writer, "write_image", hostile)

    def plan(self, number: int, plan: str) -> bool:
        """Says what to do with a save; returns whether a file comes of it."""
        self.plans[number], self._opened[number] = plan, threading.Event()
        return plan in ("writes", "slow", "blocked")

    def release(self) -> None:
        for opened in list(self._opened.values()):
            opened.set()

    @contextlib.contextmanager
    def released_meanwhile(self, is_needed: bool) -> Iterator[None]:
        """Releases what is blocked while something waits for it, from another thread."""
        other = threading.Thread(target=self.release if is_needed else bool)
        other.start()
        try:
            yield
        finally:
            other.join()
