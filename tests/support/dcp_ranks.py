"""What the ranks of tests/unit/distributed/test_dcp.py do: torch's own calls, by our writer and reader."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import marlin_ckpt
from marlin_ckpt.distributed import MarlinReader, MarlinWriter
from tests.support.loading_ranks import differences, made, stepped, whole


def _state(kind: str, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    net = made(kind, seed)
    optimizer = stepped(net)
    module, moments = get_state_dict(net, optimizer)
    return net, optimizer, {"model": module, "optimizer": moments, "step": seed}


def round_trips(directory: str) -> dict[str, Any]:
    """Saves modules of each kind of mesh, one of them behind, and loads them into others: what differs."""
    found: dict[str, Any] = {}
    for kind in ("hsdp", "fsdp+tp", "columns"):
        path = os.path.join(directory, f"{kind}_1.dcp")
        _, _, state = _state(kind, 1)
        was = whole(state)
        if kind == "hsdp":
            dcp.async_save(state, storage_writer=MarlinWriter(path)).result()
        else:
            dcp.save(state, storage_writer=MarlinWriter(path))
        net, optimizer, other = _state(kind, 2)
        dcp.load(other, storage_reader=MarlinReader(path))
        set_state_dict(net, optimizer, model_state_dict=other["model"], optim_state_dict=other["optimizer"])
        module, moments = get_state_dict(net, optimizer)
        now = whole({"model": module, "optimizer": moments, "step": other["step"]})
        found[kind] = differences(now, was)
    return found


def by_groups(directory: str) -> dict[str, Any]:
    """Each half of the ranks saves its own folder, then each rank, then all one of what they have."""
    rank = dist.get_rank()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "rows"))
    half, group, stage = mesh["rows"], mesh["rows"].get_group(), rank // 2
    values = torch.arange(1000.0) + stage

    def part(like: torch.Tensor) -> Any:
        return distribute_tensor(like, half, [Shard(0)])

    def load(path: str, into: dict[str, Any], **how: Any) -> dict[str, Any]:
        dcp.load(into, storage_reader=MarlinReader(path), **how)
        return into

    found: dict[str, Any] = {}
    own = os.path.join(directory, f"stage_{stage}.dcp")
    dcp.save({"w": part(values), "stage": stage}, storage_writer=MarlinWriter(own), process_group=group)
    loaded = load(own, {"w": part(torch.zeros(1000)), "stage": -1}, process_group=group)
    found["group"] = [torch.equal(loaded["w"].full_tensor(), values), loaded["stage"]]
    alone = os.path.join(directory, f"alone_{rank}.dcp")
    dcp.save({"rank": rank}, storage_writer=MarlinWriter(alone), no_dist=True)
    found["alone"] = load(alone, {"rank": -1}, no_dist=True)["rank"]
    both = os.path.join(directory, "both_1.dcp")
    marlin_ckpt.save({str(stage): part(values)}, both)
    into = {str(stage): part(torch.zeros(1000))}
    marlin_ckpt.load(both, into=into)
    found["both"] = torch.equal(into[str(stage)].full_tensor(), values)
    dist.barrier()
    found["intact"] = [
        marlin_ckpt.verify(os.path.join(directory, name)).status == "intact"
        for name in sorted(os.listdir(directory))
    ]
    return found
