"""How long asynchronous saves hold a training loop up: in the call, and before the next optimizer step."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.files import empty
from benchmarks.report import Row, Setting
from benchmarks.states import flat, size_bytes, size_text
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments

_BATCH = 64  # a step then takes longer than the copy of the state


class _Saver(NamedTuple):
    """Somebody's asynchronous save.

    Attributes:
        save: begins one, and returns when the loop may go on.
        finish: returns when it is done.
        waited_s: how long the step after it was held up; asked once it is done.
    """

    save: Callable[[Checkpoint], object]
    finish: Callable[[], object]
    waited_s: Callable[[], float]


class Loop:
    """A wide perceptron that trains with AdamW."""

    def __init__(self, width: int, layers: int) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(
            *(part for _ in range(layers) for part in (torch.nn.Linear(width, width), torch.nn.ReLU()))
        )
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-5)
        self._batch = torch.randn(_BATCH, width)
        self.forward()
        self.step()

    def forward(self) -> None:
        """Forward and backward, which leave the state as it is."""
        self.module(self._batch).square().mean().backward()

    def step(self) -> None:
        """What changes the state."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def checkpoint(self) -> Checkpoint:
        """The state, sharing its memory."""
        return Checkpoint(self.module.state_dict(), {"optimizer": self.optimizer.state_dict()}, {})


def _ours(loop: Loop, directory: Path, *, overlap: bool = True) -> _Saver:
    arguments = DefaultCheckpointerArguments(save_dir=str(directory), async_save=True, overlap=overlap)
    checkpointer = DefaultCheckpointer(arguments)
    checkpointer.register(loop.optimizer)
    called: list[float] = []

    def save(checkpoint: Checkpoint) -> None:
        began = time.perf_counter()
        checkpointer.save(checkpoint, 0)
        called.append(time.perf_counter() - began)

    def waited_s() -> float:
        (report,) = checkpointer.take_reports()
        return max(report.stall_s - called[-1], 0.0)

    return _Saver(save, checkpointer.wait, waited_s)


def _distributed(directory: Path) -> _Saver:
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
    package = import_module("torch.distributed.checkpoint")
    staging = import_module("torch.distributed.checkpoint.staging")
    off = ("use_pinned_memory", "use_shared_memory", "use_async_staging", "use_non_blocking_copy")
    options = staging.StagingOptions(**dict.fromkeys(off, False))  # they need a GPU
    stager = staging.DefaultStager(options)
    under_way = []

    def save(checkpoint: Checkpoint) -> None:
        state = dict(flat(checkpoint.payload()))
        path = str(directory / f"dcp-{time.monotonic_ns()}")
        under_way.append(package.async_save(state, checkpoint_id=path, async_stager=stager))

    def finish() -> None:
        response = under_way.pop()
        getattr(response, "upload_completion", response).result()

    return _Saver(save, finish, lambda: 0.0)


def _copies_s(checkpoint: Checkpoint, rounds: int) -> float:
    """One copy of the state into memory that is there."""
    pairs = [(torch.empty_like(tensor), tensor) for _, tensor in flat(checkpoint.payload())]
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for target, source in pairs:
            target.copy_(source)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def stalling(setting: Setting) -> list[Row]:
    """Ours, where a step is long enough to hide the copy and where there is none, beside others'."""
    shape, rounds = setting.sizes.medium, setting.rounds
    # As many parameters as the other benchmarks' state has.
    width = 4096 if shape.width > 100 else shape.width
    loop = Loop(width, 7 if shape.width > 100 else 2)
    directory, size = setting.directory, size_bytes(loop.checkpoint())
    savers = {"ours": _ours(loop, directory / "a"), "at once": _ours(loop, directory / "c", overlap=False)}
    try:
        savers["torch.distributed.checkpoint.async_save"] = _distributed(directory)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are still worth timing
        setting.leave_out(f"DCP's async_save is left out, since it ends in {type(error).__name__}")
    stalls: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, saver in savers.items():
            for is_long in (True, False):
                key = f"{name}, {'long' if is_long else 'no'} step"
                stall = _stall_s(loop, saver, is_long=is_long)
                stalls.setdefault(key if number else f"first {key}", []).append(stall)
        empty(directory)
    copy_s = _copies_s(loop.checkpoint(), rounds)
    medians = {key: statistics.median(values) for key, values in stalls.items()}
    what = f"stall of an asynchronous save of {size_text(size)}"
    mine = {is_long: medians[f"ours, {is_long} step"] for is_long in ("long", "no")}
    copy = "one warm copy of the state"
    rows = [
        Row("stall", f"{what}, long step", copy, mine["long"], copy_s, rounds, 0.25),
        Row("stall", f"{what}, no forward pass", copy, mine["no"], copy_s, rounds, 1.1),
        Row("stall", f"{what}, the first", copy, medians["first ours, long step"], copy_s, 1, None),
        Row(
            "stall",
            f"{what}, overlap: false",
            copy,
            medians["at once, long step"],
            copy_s,
            rounds,
            None,
        ),
    ]
    for name in savers:
        if name not in ("ours", "at once"):
            other = medians[f"{name}, long step"]
            rows.append(Row("stall", f"{what}, long step", name, mine["long"], other, rounds, 1 / 3))
    return rows


def _stall_s(loop: Loop, saver: _Saver, *, is_long: bool) -> float:
    loop.forward()
    loop.step()
    checkpoint = loop.checkpoint()
    loop.forward() if not is_long else None
    began = time.perf_counter()
    saver.save(checkpoint)
    called_s = time.perf_counter() - began
    loop.forward() if is_long else None
    loop.step()
    saver.finish()
    return called_s + saver.waited_s()
