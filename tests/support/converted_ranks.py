"""What several ranks save, as a folder that tests without a group look at."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import save_sharded
from tests.support.folder_checkpoints import about


def whole() -> dict[str, Any]:
    """The state without any sharding."""
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    model = {
        "rows": made(7, 4),
        "columns": made(5, 9),
        "both": made(6, 6),
        "alike": made(3),
        "few": made(1, 2),
        "none": made(0, 600),
    }
    moments = {number: {"exp_avg": made(4, 4), "step": torch.tensor(3.0)} for number in range(2)}
    return {
        "module_interface_state": model,
        "trainer_state": {
            "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}
        },
        "trainer_backend_state": {},
    }


def save(path: str) -> None:
    """Saves it from two by two ranks, sharded in every way."""
    ranks = Ranks()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    state = whole()
    ways = {
        "rows": [Shard(0), Replicate()],
        "columns": [Replicate(), Shard(1)],
        "both": [Shard(0), Shard(1)],
        "few": [Shard(0), Shard(0)],
        "none": [Shard(0), Shard(1)],
    }
    model = state["module_interface_state"]
    for name, placements in ways.items():
        model[name] = _sharded(model[name], mesh, placements)
    for one in state["trainer_state"]["optimizer"]["state"].values():
        one["exp_avg"] = _sharded(one["exp_avg"], mesh, [Shard(0), Shard(1)])
    model["tied"] = model["rows"]
    state["trainer_state"]["ranks"] = {str(ranks.rank): {"rng": ranks.rank}}
    save_sharded(state, path, ranks, SavePlans(), about(7), has_statistics=True)


def _sharded(tensor: torch.Tensor, mesh: Any, placements: list[Any]) -> DTensor:
    return distribute_tensor(tensor, mesh, placements)
