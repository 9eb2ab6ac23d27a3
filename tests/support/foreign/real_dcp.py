"""Folders that torch's Distributed Checkpoint writes itself, by processes that shard a model with FSDP2."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from .launching import launch
from .made import Made, Tensors, prefixed


class Net(nn.Module):
    """With shapes that no number of ranks divides, and buffers that are not sharded."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 7)
        self.second = nn.Linear(7, 2, bias=False)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(torch.tanh(self.first(x))))


class Held:
    """A state that says itself what it saves, as torchtitan's."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = state


def trained(*, is_sharded: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model after two steps, with its optimizer."""
    torch.manual_seed(0)
    net = Net()
    if is_sharded:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(net.first, mesh=mesh)
        fully_shard(net, mesh=mesh)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)  # gives each group an `initial_lr`
    rows = torch.linspace(-1, 1, 12).view(4, 3)
    for _ in range(2):
        net(rows).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return net, optimizer


def save_all(directory: Path) -> Tensors:
    """Saves one state in every way; run by each rank, or alone without a process group.

    Args:
        directory: Gets a folder for each way.

    Returns:
        The weights, whole.
    """
    together = dist.is_initialized()
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    net, optimizer = trained(is_sharded=together)
    model, nested = get_state_dict(net, optimizer)
    flat = get_optimizer_state_dict(
        net, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True)
    )
    state = {"model": model, "optimizer": nested, "step": 4}
    dcp.save(state, checkpoint_id=directory / "dcp_4")
    titan = {
        **model, "optimizer": Held(flat), "lr_scheduler": Held({"last_epoch": 10}),
        "train_state": Held({"step": torch.tensor(10, dtype=torch.int32), "ntokens_seen": torch.tensor(80)}),
        "dataloader": Held({f"dp_rank_{rank}": b"pickled", "world_size": ranks}),
    }  # fmt: skip
    dcp.save(titan, checkpoint_id=directory / "checkpoint" / "step-10")
    dcp.save({"model": model}, checkpoint_id=directory / "fsdp" / "pytorch_model_fsdp_0")
    dcp.save({"optimizer": nested}, checkpoint_id=directory / "fsdp" / "optimizer_0")
    threads = dcp.FileSystemWriter(directory / "threads", thread_count=2)
    dcp.save(state, storage_writer=threads)
    dcp.save(model, storage_writer=HuggingFaceStorageWriter(str(directory / "shards"), save_distributed=True))
    floats = {name: one for name, one in model.items() if one.is_floating_point()}  # torch merges no others
    index = {name: 1 + number % 2 for number, name in enumerate(floats)}
    merging = HuggingFaceStorageWriter(
        str(directory / "merged"), index, save_distributed=True, enable_consolidation=True
    )
    dcp.save(floats, storage_writer=merging)
    if together:
        dcp.save(state, checkpoint_id=directory / "apart", use_collectives=False)
    return {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in model.items()}


def _found(directory: Path, of: Tensors) -> dict[str, Made]:
    named = prefixed(of, "model.")
    floats = {name: one for name, one in of.items() if one.is_floating_point()}
    found = {
        "dcp": Made(path=directory / "dcp_4", layout="dcp", weights=named),
        "torchtitan": Made(
            path=directory / "checkpoint" / "step-10", layout="torchtitan", weights=of, step=10
        ),
        "fsdp": Made(path=directory / "fsdp", layout="fsdp", weights=named),
        "dcp-in-threads": Made(path=directory / "threads", layout="dcp", weights=named),
        "dcp-hugging-face": Made(path=directory / "shards", layout="dcp-hugging-face", weights=of),
        "dcp-merged": Made(path=directory / "merged", layout="sharded", weights=floats),
    }
    if (directory / "apart").is_dir():
        found["dcp-apart"] = Made(path=directory / "apart", layout="dcp", weights=named)
    return found


def make_alone(directory: Path) -> dict[str, Made]:
    """All that one process writes without a process group, in milliseconds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        return _found(directory, save_all(directory))


def make_by_ranks(directory: Path, *, ranks: int) -> dict[str, Made]:
    """All that so many processes write together, on the CPU: takes some seconds.

    Args:
        directory: Gets a folder for each way.
        ranks: How many processes torchrun starts.

    Returns:
        `dcp`, `torchtitan`, `fsdp` (the nested folders of Accelerate and Transformers), `dcp-in-threads` (two
        files a rank), `dcp-hugging-face` (shards without an index), `dcp-merged` (the same merged into shards
        with an index, `sharded/` beside), `dcp-apart` (`__R.metadata` for each rank).
    """
    launch(__name__, directory, ranks=ranks)
    return _found(directory, torch.load(directory / "whole.pt"))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    whole = save_all(Path(sys.argv[1]))
    if dist.get_rank() == 0:
        torch.save(whole, os.path.join(sys.argv[1], "whole.pt"))
    with contextlib.suppress(RuntimeError):  # gloo may find the others gone
        dist.barrier()
    dist.destroy_process_group()
