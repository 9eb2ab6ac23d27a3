"""A training loop of FSDP2, whose state two ranks save asynchronously: how long each waits for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from benchmarks import behind, loops
from benchmarks.behind import Saver
from benchmarks.crew import Commands
from benchmarks.loops import Loop
from benchmarks.stalling import stall_s
from benchmarks.states import flat
from marlin_ckpt import Checkpoint


def sharded_loop(width: int, layers: int, directory: str) -> Commands:
    """Makes a rank that trains a wide perceptron."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def shard(module: torch.nn.Module) -> None:
        for layer in module.children():
            fully_shard(layer, mesh=mesh, reshard_after_forward=False)
        fully_shard(module, mesh=mesh, reshard_after_forward=False)

    loop = loops.wide(width, layers, prepare=shard)
    ours, stock = behind.ours(loop, Path(directory)), _stock(Path(directory))
    return {
        "size": lambda: sum(here.nbytes for _, here in _aside(loop)),
        "stall ours": lambda: stall_s(loop, ours, is_long=True),
        "stall stock": lambda: stall_s(loop, stock, is_long=True),
        "copy": lambda: loops.copy_s(_aside(loop), 1),
        "close": ours.close,
    }


def _stock(directory: Path) -> Saver:
    """Stock's, in a thread, with a group of its own, since the loop uses the other meanwhile."""
    group = dist.new_group(backend="gloo")
    under_way: list[Any] = []

    def save(checkpoint: Checkpoint) -> None:
        state = dict(flat(checkpoint.payload()))
        under_way.append(async_save(state, checkpoint_id=directory / "stock", process_group=group))

    return Saver(save, lambda: under_way.pop().result())


def _aside(loop: Loop) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For what this rank has of each tensor of the state, memory that is there, and itself."""
    state = (tensor for _, tensor in flat(loop.checkpoint().payload()))
    here = [one.to_local() if isinstance(one, DTensor) else one for one in state]
    return [(torch.ones_like(one), one.detach()) for one in here]
