"""A GPT-2 and its AdamW, sharded over ranks by FSDP2, and what a rank does with their state."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

import marlin_ckpt
from benchmarks.crew import Commands
from benchmarks.files import buffer, durable, evict, read_raw, read_through_cache, write_raw
from benchmarks.memory import grown_mib
from benchmarks.states import GPT2, Shape, flat
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import save_sharded
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.times import now
from marlin_ckpt.naming import Kind

_READ_BYTES = 8 << 20

OURS, STOCK = "ours_1.dcp", "stock"  # folders
State = dict[str, Any]


def sharded(shape: Shape, *, by_columns: bool = False) -> State:
    """The state of this rank: a module's, and that of its AdamW after a step.

    Args:
        shape: of the module.
        by_columns: shard matrices by columns, and not by rows.
    """

    def placement(parameter: torch.Tensor) -> Shard:
        return Shard(1 if by_columns and parameter.dim() > 1 else 0)

    with torch.device("meta"):
        module = GPT2(shape)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(module, mesh=mesh, shard_placement_fn=placement)
    module.to_empty(device="cpu")
    torch.manual_seed(dist.get_rank())
    with torch.no_grad():
        for parameter in module.parameters():
            _local(parameter).normal_(std=0.02)
            parameter.grad = parameter.detach()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    optimizer.step()
    optimizer.zero_grad()
    return {"model": get_model_state_dict(module), "optimizer": get_optimizer_state_dict(module, optimizer)}


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def tensors(state: State) -> Iterator[torch.Tensor]:
    """What this rank has of each tensor of a state."""
    return (_local(tensor) for _, tensor in flat(state))


class Rank:
    """A rank that saves and loads, each in our way, in stock's, and with the system's calls alone."""

    def __init__(self, shape: Shape, directory: str, raw_mib: tuple[int, ...]) -> None:
        self._shape, self._directory = shape, Path(directory)
        self._state = sharded(shape)
        self._ranks, self._plans = Ranks(), SavePlans()
        self._buffers = {mib: buffer(mib << 20) for mib in raw_mib}
        self._raw = self._directory / f"raw-{dist.get_rank()}"
        gc.freeze()

    def commands(self) -> Commands:
        """What it can be told."""
        raw = {f"save raw {mib}": partial(self.save_raw, one) for mib, one in self._buffers.items()}
        return {
            "size": self.size_bytes, "sums": self.sums, "forget": self.forget, "memory": self.memory_mib,
            "columns": self.columns, "save ours": self.save_ours, "save stock": self.save_stock, **raw,
            "load ours": self.load_ours, "load stock": self.load_stock,
            "load raw warm": partial(self.load_raw, read_through_cache),
            "load raw cold": partial(self.load_raw, read_raw),
        }  # fmt: skip

    def size_bytes(self) -> int:
        """How many bytes of the state are here."""
        return sum(one.nbytes for one in tensors(self._state))

    def sums(self) -> list[float]:
        """Of each sharded tensor the sum of what is here."""
        each = [one for _, one in flat(self._state) if isinstance(one, DTensor)]
        return [one.to_local().sum(dtype=torch.float64).item() for one in each]

    def forget(self) -> None:
        """Fills everything with zeros."""
        with torch.no_grad():
            for one in tensors(self._state):
                one.zero_()

    def columns(self) -> None:
        """Has the state sharded by columns from now on."""
        self._state = sharded(self._shape, by_columns=True)

    def memory_mib(self, command: str) -> float | None:
        """By how much a command makes this process grow, at most; None where the kernel does not say."""
        return grown_mib(self.commands()[command])

    def save_ours(self) -> None:
        """By a saver that keeps its plan."""
        manifest = Manifest(kind=Kind.CHECKPOINT, index=1, created=now(), run_id="run", save_number=1)
        save_sharded(self._state, self._directory / OURS, self._ranks, self._plans, manifest)

    def save_stock(self) -> None:
        """As it does by default, and its folder made durable."""
        save(self._state, checkpoint_id=self._directory / STOCK)
        if self._ranks.is_main:
            durable(self._directory / STOCK, files=False)  # it syncs the files, but not the directory

    def save_raw(self, memory: memoryview) -> None:
        """As many bytes, from memory that is in use already."""
        write_raw(self._raw, memory, self.size_bytes())

    def load_ours(self) -> None:
        """Into the state."""
        marlin_ckpt.load(self._directory / OURS, into=self._state)

    def load_stock(self) -> None:
        """Into the state."""
        load(self._state, checkpoint_id=self._directory / STOCK)

    def load_raw(self, read: Callable[[Path, memoryview], None]) -> None:
        """What `save_raw` has written, into memory that is in use already."""
        read(self._raw, next(iter(self._buffers.values())))


def rank(shape: Shape, directory: str, raw_mib: tuple[int, ...]) -> Commands:
    """Makes a rank."""
    return Rank(shape, directory, raw_mib).commands()


def cache(directory: Path) -> None:
    """Brings all files of a directory into the page cache; what is written or read past it is not there."""
    for path in (one for one in directory.rglob("*") if one.is_file()):
        with path.open("rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                continue


def forget_cached(directory: Path) -> None:
    """Drops all files in a directory from the page cache."""
    for folder, _, names in os.walk(directory):
        for name in names:
            evict(os.path.join(folder, name))
