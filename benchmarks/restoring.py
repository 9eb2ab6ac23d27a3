"""Times restoring a file into a live module and its optimizer, until every page of them has been read.

Without reading them, `torch.load(mmap=True)` would end before it has read the moments: AdamW's
`load_state_dict` keeps the tensors that it is given, and these are the mapped file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from functools import partial
from typing import Any

import torch
from isal import isal_zlib

from benchmarks import saving
from benchmarks.files import buffer, evict, in_blocks, read_by_two
from benchmarks.interleaved import Call, medians
from benchmarks.report import Row, Setting
from benchmarks.states import Training, size_bytes, size_text, training
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments

_FLOATS_OF_A_PAGE = 1024
_DD = "`dd bs=8M of=/dev/null`"
_DIRECT, _CACHED = "O_DIRECT reads of the same file", "`pread` of the same file by two threads"
_SUMMED = "the same with a CRC32 of each byte, and a number of each page read"
_DIRECT_MIB, _CACHED_MIB = 4, 1


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

    size_in_blocks = in_blocks(os.path.getsize(path))
    memory, live_like = buffer(size_in_blocks), buffer(size_in_blocks, is_huge=False)
    read_warm = partial(read_by_two, path, live_like, _CACHED_MIB << 20)  # as the module has it
    limits: dict[str, dict[str, Call]] = {
        "warm": {_CACHED: read_warm, _SUMMED: timed(partial(read_warm, look=isal_zlib.crc32))},
        "cold": _cold_limits(path, memory),
    }
    rows = []
    for state, before in (("warm", run.renew), ("cold", before_cold)):
        calls = {name: timed(call) for name, call in restorers.items()}
        timings = medians({**calls, **limits[state]}, setting.rounds, before)
        ours = timings.pop("ours").wall_s
        what, group = f"restore {size_text(size)}, {state}", f"restore {state}"
        reads = [name for name in limits[state] if name != _SUMMED]
        if fastest := min(reads, key=lambda name: timings[name].wall_s, default=""):
            least = timings[fastest].wall_s
            rows.append(Row(group, what, fastest, ours, least, setting.rounds, 1.1, limit=True))
        if state == "warm":
            # Of what is above the limit, this much no load that compares checksums can save.
            summed = timings[_SUMMED].wall_s
            rows.append(Row(group, what, _SUMMED, ours, summed, setting.rounds, limit=True))
        bounds = {"torch.load": 0.35, "torch.load(mmap=True)": 1.2}
        rows += [
            Row(group, what, f"{name} + load_state_dict", ours, timings[name].wall_s, setting.rounds, most)
            for name, most in bounds.items()
        ]
    return rows


def _cold_limits(path: str, memory: memoryview) -> dict[str, Call]:
    """The reads of a file that is in no memory, of which the fastest is the limit."""
    direct = partial(read_by_two, path, memory, _DIRECT_MIB << 20, is_direct=True)
    found: dict[str, Call] = {}
    with contextlib.suppress(OSError):  # the file system has no O_DIRECT
        direct()
        found[_DIRECT] = direct
    if dd := shutil.which("dd"):
        command = [dd, f"if={path}", "of=/dev/null", "bs=8M", "status=none"]
        found[_DD] = lambda: subprocess.run(command, check=True)
    return found
