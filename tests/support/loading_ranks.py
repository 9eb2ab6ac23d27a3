"""What the ranks of tests/unit/distributed/test_loading.py do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import marlin_ckpt
from marlin_ckpt import Checkpoint
from marlin_ckpt.distributed import MarlinReader
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import save_sharded
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import Kind


class Net(nn.Module):
    """Sizes that no number of ranks divides, one layer that is smaller than they, buffers, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 10)
        self.norm = nn.BatchNorm1d(10)
        self.outer = nn.Linear(10, 8, bias=False)
        self.small = nn.Parameter(torch.randn(2, 3))
        self.one = nn.Parameter(torch.randn(1))
        self.register_buffer("scalar", torch.randn(()))
        self.again = nn.Linear(8, 10, bias=False)
        self.again.weight = self.inner.weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = self.outer(torch.relu(self.norm(self.inner(rows))))
        return hidden + self.small.sum() + self.one + self.scalar


def made(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = Net()
    world = dist.get_world_size()
    if kind == "plain" or world == 1:
        return net
    if kind == "hsdp":
        fully_shard(net, mesh=init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copies", "shards")))
    elif kind == "tp":
        _parallel(net, init_device_mesh("cpu", (world,)))
    elif kind == "fsdp+tp":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("fsdp", "tp"))
        _parallel(net, mesh["tp"])
        fully_shard(net, mesh=mesh["fsdp"])
    else:
        by = (
            (lambda one: Shard(1) if one.dim() > 1 and one.shape[1] % world == 0 else Shard(0))
            if kind == "columns"
            else None
        )
        fully_shard(net, mesh=init_device_mesh("cpu", (world,)), shard_placement_fn=by)
    return net


def _parallel(net: nn.Module, mesh: Any) -> None:
    parallelize_module(net, mesh, {"inner": ColwiseParallel(), "outer": RowwiseParallel()})
    net.again.weight = net.inner.weight


def stepped(net: nn.Module) -> torch.optim.Optimizer:
    """An optimizer after two steps of made-up gradients, the same on all ranks."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for step in range(2):
        for number, one in enumerate(net.parameters()):
            torch.manual_seed(100 * step + number)
            whole = torch.randn(one.shape)
            one.grad = part_of(whole, one)
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def part_of(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if not isinstance(like, DTensor):
        return whole.clone()
    (chunk,) = like.__create_chunk_list__()
    part = whole[tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))]
    about = {"shape": whole.shape, "stride": whole.stride()}
    return DTensor.from_local(part.clone(), like.device_mesh, like.placements, **about)


def whole(state: Any) -> Any:
    """A state with whole tensors in the places of DTensors; all ranks call this."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, torch.Tensor):
        return state
    if isinstance(state, dict):
        return {key: whole(one) for key, one in state.items()}
    if isinstance(state, list):
        return [whole(one) for one in state]
    return state


def save(folders: dict[str, str]) -> None:
    """Saves what a run has that is sharded in each way, and beside it the same in one file.

    Stock DCP writes those whose names begin with `stock`.
    """
    for kind, folder in folders.items():
        net = made(kind, seed=1)
        net.norm.running_mean.uniform_()
        optimizer = stepped(net)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        trainer = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "step": 7}
        state = Checkpoint(net.state_dict(), trainer, None).payload()
        if Path(folder).name.startswith("stock"):
            dcp.save(state, checkpoint_id=folder)
        else:
            save_sharded(state, folder, Ranks(), SavePlans(), manifest())
        expected = whole(state)
        if dist.get_rank() == 0:
            torch.save(expected, f"{folder}.pt")


def manifest(index: int = 3) -> Manifest:
    created = "2026-11-27T12:00:00.000Z"
    return Manifest(kind=Kind.CHECKPOINT, index=index, created=created, run_id="run", save_number=index)


def memory_mb(name: str) -> float:
    """How much memory this process has, `VmRSS`, or has had at most, `VmHWM`: proc(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(one.split()[1]) for one in lines if one.startswith(name)) / 1000


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two states differ, bit for bit."""
    if isinstance(other, torch.Tensor):
        same = isinstance(one, torch.Tensor) and one.dtype == other.dtype and one.shape == other.shape
        same = same and torch.equal(
            one.detach().contiguous().reshape(-1).view(torch.uint8),
            other.detach().contiguous().reshape(-1).view(torch.uint8),
        )
        return [] if same else [path]
    if isinstance(other, dict):
        if not isinstance(one, dict) or [*one] != [*other]:
            return [f"{path}: {one if not isinstance(one, dict) else [*one]} and not {[*other]}"]
        return [text for key in other for text in differences(one[key], other[key], f"{path}.{key}")]
    if isinstance(other, (list, tuple)):
        if type(one) is not type(other) or len(one) != len(other):
            return [path]
        return [
            text
            for n, (a, b) in enumerate(zip(one, other, strict=True))
            for text in differences(a, b, f"{path}[{n}]")
        ]
    return [] if one == other else [f"{path}: {one} and not {other}"]


def reshard(cases: list[list[str]]) -> dict[str, list[str]]:
    """Loads folders into live objects of some kind; an optimizer that has not stepped, and one that has.

    Returns:
        what differs then from what was saved, and whether the optimizer can step.
    """
    found = {}
    for folder, kind in cases:
        expected = torch.load(f"{folder}.pt")
        for is_fresh in (True, False):
            net = made(kind, seed=2)
            optimizer = torch.optim.AdamW(net.parameters()) if is_fresh else stepped(net)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
            trainer = {"optimizer": optimizer, "scheduler": scheduler}
            loaded = marlin_ckpt.load(folder, into={"module_interface_state": net, "trainer_state": trainer})
            trainer = {key: one.state_dict() for key, one in trainer.items()}
            trainer["step"] = loaded["trainer_state"]["step"]
            state = whole(Checkpoint(net.state_dict(), trainer, None).payload())
            found[f"{Path(folder).name} {kind} {is_fresh}"] = differences(state, expected)
            step(net, optimizer)
    return found


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for one in net.parameters():
        one.grad = part_of(torch.ones(one.shape), one)
    optimizer.step()


def whole_alone(folder: str) -> list[str]:
    """What differs in what one process loads without live objects."""
    return differences(marlin_ckpt.load(folder), torch.load(f"{folder}.pt"))


def read_by_torch(folders: list[str], kinds: list[str]) -> dict[str, list[str]]:
    """What differs where torch's own `load` reads by MarlinReader, and where by its own reader."""
    found = {}
    for folder in folders:
        for kind in kinds:
            expected = torch.load(f"{folder}.pt")
            for reader in (MarlinReader(folder), None):
                net = made(kind, seed=2)
                optimizer = stepped(net)
                scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
                trainer = {
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "step": 0,
                }
                state = Checkpoint(net.state_dict(), trainer, None).payload()
                dcp.load(state, checkpoint_id=folder, storage_reader=reader)
                found[f"{Path(folder).name} {kind} {reader is None}"] = differences(whole(state), expected)
    return found
