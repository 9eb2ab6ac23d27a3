"""Ranks that load together from a folder in which one bit after the other is changed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import marlin_ckpt
from marlin_ckpt import Checkpoint
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import save_sharded
from marlin_ckpt.errors import MarlinError
from tests.support.dcp import flip
from tests.support.loading_ranks import differences, manifest

_ROWS = torch.arange(1.0, 300 * 64 + 1).reshape(300, 64)


def _state(mesh: Any, scale: float = 1) -> dict[str, Any]:
    rank = dist.get_rank()
    module = {
        "weight": distribute_tensor(_ROWS * scale, mesh, [Shard(0)], src_data_rank=None),
        "bias": (torch.arange(1.0, 8) * scale).bfloat16(),
    }
    own = {str(rank): {"rng": torch.full((5,), rank + 1), "position": (7, rank)}} if scale else {}
    return Checkpoint(module, {"epoch": 7, "ranks": own} if scale else {}, {"scale": 0.5}).payload()


def _local(state: Any) -> Any:
    """A state with what this rank has of its tensors."""
    if isinstance(state, dict):
        return {key: _local(one) for key, one in state.items()}
    return state.to_local() if hasattr(state, "to_local") else state


def load_after_flips(directory: str, kind: str, flips: int) -> dict[str, Any]:
    """Changes one bit after the other: what a load at all ranks makes of each.

    Returns:
        how many loads were refused, and how many loaded what was saved; which ones ended otherwise, or not
        alike at all ranks; and, at rank 0, the kinds of files where no change was refused.
    """
    ranks, mesh = Ranks(timeout_s=60), init_device_mesh("cpu", (dist.get_world_size(),))
    folder = Path(directory, f"{kind}_3.dcp")
    if kind == "ours":
        save_sharded(_state(mesh), folder, ranks, SavePlans(), manifest())
    else:
        dcp.save(_state(mesh), checkpoint_id=folder)
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    if kind == "stock":  # nothing proves a byte of its metadata
        files = [one for one in files if one.suffix == ".distcp"]
    sizes = {one: one.stat().st_size for one in files}
    expected, chance = _local(_state(mesh)), random.Random(20261127)
    found: dict[str, Any] = {"refused": 0, "right": 0, "wrong": [], "files": len(files)}
    silent = {one.name for one in files}
    ranks.meet()  # rank 0 writes files anew, of which the others have seen the lengths by then
    for number in range(flips):
        file = files[number % len(files)]
        at, bit = chance.randrange(sizes[file]), 1 << chance.randrange(8)
        if ranks.is_main:
            flip(file, at, bit)
        ranks.meet()
        ended = _loaded(folder, mesh, expected)
        both = ranks.exchanged(ended.encode())
        if len(set(both)) > 1 or ended not in ("refused", "right"):
            found["wrong"].append([file.name, at, bit, *(one.decode() for one in both)])
        else:
            found[ended] += 1
            silent -= {file.name} if ended == "refused" else set()
        if ranks.is_main:
            flip(file, at, bit)
        ranks.meet()
    found["silent"] = sorted(silent)
    ended = _loaded(folder, mesh, expected)
    assert ended == "right", ended
    return found


def _loaded(folder: Path, mesh: Any, expected: Any) -> str:
    into = _state(mesh, 0)
    try:
        loaded = marlin_ckpt.load(folder, into=into)
    except MarlinError:
        return "refused"
    merged = {**into, **loaded, "module_interface_state": into["module_interface_state"]}
    lost = differences(_local(merged), expected)
    return str(lost[:3]) if lost else "right"
