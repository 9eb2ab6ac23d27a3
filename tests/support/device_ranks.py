"""What ranks do with a module that is sharded on a device; run by tests/device/test_ranks.py."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import marlin_ckpt
from marlin_ckpt import Saver

_WIDTH = 256


def made(device: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A module that all ranks of one device have a part of, and its optimizer after two steps."""
    torch.manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Linear(_WIDTH, _WIDTH), torch.nn.Linear(_WIDTH, 7)).to(device)
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for layer in module:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module, torch.optim.AdamW(module.parameters(), lr=0.1)


def step(module: torch.nn.Module, optimizer: torch.optim.Optimizer, device: str, number: int) -> None:
    torch.manual_seed(number)
    module(torch.randn(16, _WIDTH, device=device)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def differing(one: torch.nn.Module, other: torch.nn.Module) -> list[str]:
    """The parameters of which this rank has another part in two modules."""
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    return [
        name
        for (name, first), second in pairs
        if not torch.equal(_own(first), _own(second)) or first.device != second.device
    ]


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def trained_saved_and_loaded(path: str, device: str, asynchronous: bool) -> list[str]:
    """Saves, goes on, loads what was saved into another module, and goes on in the same way."""
    module, optimizer = made(device)
    for number in range(2):
        step(module, optimizer, device, number)
    with Saver(asynchronous=asynchronous) as saver:
        saver.save({"model": module, "optimizer": optimizer}, path)
        step(module, optimizer, device, 2)
    other, others = made(device)
    step(other, others, device, 9)
    marlin_ckpt.load(path, into={"model": other, "optimizer": others})
    step(other, others, device, 2)
    return differing(module, other)
