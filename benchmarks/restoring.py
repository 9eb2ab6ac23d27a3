"""Times restoring a file into a live module and its optimizer, until every page of them has been read.

Without reading them, `torch.load(mmap=True)` would end before it has read the moments: AdamW's
`load_state_dict` keeps the tensors that it is given, and these are the mapped file.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import saving
from benchmarks.files import evict
from benchmarks.interleaved import Call, medians
from benchmarks.report import Row, Setting
from benchmarks.states import Training, size_bytes, size_text, training
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments

_FLOATS_OF_A_PAGE = 1024


class _Live:
    """A run that is alive, with tensors of its own whatever was loaded into it before."""

    def __init__(self, live: Training) -> None:
        self.live = live
        self._own = {key: dict(state) for key, state in live.optimizer.state.items()}

    def renew(self) -> None:
        """Gives the optimizer its own tensors back: those of a restore keep the file mapped."""
        for key, state in self._own.items():
            self.live.optimizer.state[key] = dict(state)

    def forget(self) -> None:
        """Fills everything with zeros."""
        self.renew()
        with torch.no_grad():
            for tensor in self.live.tensors():
                tensor.zero_()

    def sums(self) -> list[float]:
        """A value that shows whether everything has been restored."""
        return [tensor.sum(dtype=torch.float64).item() for tensor in self.live.tensors()]

    def read_pages(self) -> None:
        """Reads a number of each page."""
        for tensor in self.live.tensors():
            tensor.flatten()[::_FLOATS_OF_A_PAGE].sum()


def _restorers(live: Training, directory: str, path: str) -> dict[str, Call]:
    module, optimizer = live.module, live.optimizer
    arguments = DefaultCheckpointerArguments(
        save_dir=directory, model_state_save_dir=None, load_dir=directory
    )
    checkpointer = DefaultCheckpointer(arguments)

    def take(state: dict[str, Any]) -> None:
        module.load_state_dict(state["module_interface_state"])
        optimizer.load_state_dict(state["trainer_state"]["optimizer"])

    return {
        "ours": lambda: checkpointer.load(into=Checkpoint(module, {"optimizer": optimizer})),
        "torch.load": lambda: take(torch.load(path, weights_only=True)),
        "torch.load(mmap=True)": lambda: take(torch.load(path, weights_only=True, mmap=True)),
    }


def restoring(setting: Setting) -> list[Row]:
    """Warm and cold, ours with every checksum compared."""
    live = training(setting.sizes.medium)
    checkpoint = live.checkpoint()
    saving.ours(checkpoint, setting.directory)()
    size, path = size_bytes(checkpoint), str(setting.directory / "model_0.pt")
    del checkpoint
    run = _Live(live)
    restorers = _restorers(live, str(setting.directory), path)
    expected = run.sums()
    for name, restore in restorers.items():
        run.forget()
        restore()
        if run.sums() != expected:
            raise RuntimeError(f"{name} has not restored what was saved")

    def timed(restore: Call) -> Call:
        def call() -> None:
            restore()
            run.read_pages()

        return call

    def before_cold() -> None:
        run.renew()
        evict(path)

    rows = []
    for state, before in (("warm", run.renew), ("cold", before_cold)):
        timings = medians({name: timed(call) for name, call in restorers.items()}, setting.rounds, before)
        ours = timings.pop("ours").wall_s
        bounds = {"torch.load": 0.35, "torch.load(mmap=True)": 1.2}
        rows += [
            Row(f"restore {state}", f"restore {size_text(size)}, {state}", f"{name} + load_state_dict", ours,
                timing.wall_s, setting.rounds, bounds[name])
            for name, timing in timings.items()
        ]  # fmt: skip
    return rows
