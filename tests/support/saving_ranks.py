"""What the ranks of tests/unit/distributed/test_saving.py save."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from marlin_ckpt.distributed import MarlinWriter
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import save_sharded
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import Kind


def manifest(index: int = 1) -> Manifest:
    return Manifest(
        kind=Kind.CHECKPOINT, index=index, created="2026-11-27T12:00:00.000Z", run_id="run", save_number=1,
        metrics={"loss": 0.5},
    )  # fmt: skip


class Counted(Ranks):
    """Counts the bytes that this rank sends, and the collectives."""

    sent = calls = 0

    def _count(self, size: int) -> None:
        self.sent += size
        self.calls += 1

    def _reduced(self, numbers, by):
        self._count(8 * len(numbers))
        return super()._reduced(numbers, by)

    def told(self, value=None, by=0):
        import pickle

        self._count(8 + (len(pickle.dumps(value)) if self.rank == by else 0))
        return super().told(value, by)

    def _gathered(self, data):
        self._count(len(data))
        return super()._gathered(data)


def whole(*shape: int, start: float = 0) -> torch.Tensor:
    """The same tensor at each rank, no two elements alike."""
    count = int(torch.tensor(shape).prod()) if shape else 1
    return torch.arange(start, start + count).reshape(shape)


def _model(seed: int, *shape: int, names: tuple[str, ...] | None = None) -> Any:
    """A model after a step, sharded over a mesh of all ranks, and its optimizer."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(7, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 5))
    mesh = init_device_mesh("cpu", shape or (dist.get_world_size(),), mesh_dim_names=names)
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False)
    torch.manual_seed(seed + dist.get_rank())
    model(torch.randn(4, 7)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def _state(seed: int, *shape: int, names: tuple[str, ...] | None = None) -> dict:
    model, optimizer = _model(seed, *shape, names=names)
    rank = str(dist.get_rank())
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": seed,
        "ranks": {rank: {"rng": torch.get_rng_state(), "pair": (torch.ones(1) * dist.get_rank(), rank)}},
    }


def _parallel(size: int) -> dict:
    """A module of tensor parallelism that is sharded over the other dimension of its mesh, too."""
    torch.manual_seed(5)
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("dp", "tp"))
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 7))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(model, mesh["tp"], plan)
    fully_shard(model, mesh=mesh["dp"])
    return {"model": model.state_dict()}


def full(state: Any) -> Any:
    """A state with whole tensors in place of DTensors."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: full(one) for key, one in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(map(full, state))
    return state


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return [*one] == [*other] and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _emptied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return torch.zeros_like(state)
    if isinstance(state, dict):
        return {key: _emptied(one) for key, one in state.items()}
    return [*map(_emptied, state)] if isinstance(state, list) else state


def _by_stock(state: dict, path: str) -> bool:
    """Whether stock DCP reads what was saved."""
    found = _emptied({key: one for key, one in state.items() if key != "ranks"})
    dcp.load(found, checkpoint_id=path)
    return same(full(found), full({key: one for key, one in state.items() if key != "ranks"}))


def save_all(directory: str) -> dict:
    """States of all kinds of meshes: what stock reads of them."""
    ranks, size = Ranks(), dist.get_world_size()
    cases: dict[str, tuple[tuple[int, ...], tuple[str, ...] | None]] = {"fsdp": ((), None)}
    if size == 4:
        cases["hsdp"] = (2, 2), ("replicate", "shard")
    found = {}
    for name, (shape, names) in cases.items():
        state = _state(3, *shape, names=names)
        path = os.path.join(directory, f"{name}_1.dcp")
        report = save_sharded(state, path, ranks, SavePlans(), manifest())
        found[name] = [_by_stock(state, path), report.size_bytes]
    state = _parallel(size)
    path = os.path.join(directory, "parallel_1.dcp")
    save_sharded(state, path, ranks, SavePlans(), manifest())
    found["parallel"] = [_by_stock(state, path), str(state["model"]["0.weight"].placements)]
    for name, placements in _placements(size).items():
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("dp", "tp"))
        state = {
            "w": distribute_tensor(whole(5, 6), mesh, placements),
            "big": distribute_tensor(whole(300, 200), mesh, placements),
        }
        path = os.path.join(directory, f"{name}_1.dcp")
        save_sharded(state, path, ranks, SavePlans(), manifest())
        found[name] = [_by_stock(state, path), sorted(os.listdir(path))]
    return found


def _placements(size: int) -> dict:
    del size
    kinds = {"r": Replicate(), "0": Shard(0), "1": Shard(1)}
    return {
        f"mesh-{one}{other}": (kinds[one], kinds[other]) for one, other in itertools.product(kinds, kinds)
    }


def _errors(ranks: Ranks, directory: str) -> Iterator[tuple[str, Any]]:
    mesh = init_device_mesh("cpu", (ranks.world_size,))
    partial = DTensor.from_local(torch.ones(2), mesh, [Partial()])
    yield "partial", {"w": partial}
    yield "shapes", {"w": torch.ones(2 + ranks.rank)}
    yield "kinds", {"w": torch.ones(2) if ranks.rank else 3}
    yield "unpicklable", {"ranks": {str(ranks.rank): (lambda: 0) if ranks.rank == 1 else 0}}
    yield "meta", {"w": torch.ones(2, device="meta")}
    yield "no dict", [1]
    own = torch.full((2,), ranks.rank)
    yield "tied", {"w": own, "ranks": {str(ranks.rank): {"w": own}}}
    del directory


def fail_all(directory: str) -> dict:
    """States that cannot be saved: what each rank raises; then one that can."""
    ranks, plans, found = Ranks(timeout_s=30), SavePlans(), {}
    path = os.path.join(directory, "a_1.dcp")

    def refused(state: Any) -> str:
        try:
            save_sharded(state, path, ranks, plans, manifest())
        except MarlinError as error:
            return f"{type(error).__name__}: {error}"
        return "saved"

    for name, state in _errors(ranks, directory):
        found[name] = refused(state)
    found["files"] = os.listdir(directory)
    mesh = init_device_mesh("cpu", (ranks.world_size,))
    again = {"w": distribute_tensor(torch.ones(8), mesh, [Shard(0)], src_data_rank=None), "v": torch.ones(3)}
    save_sharded(again, path, ranks, plans, manifest())
    if ranks.rank == 1:
        again["w"]._local_tensor = torch.ones(3)
    found["replaced"] = refused(again)
    if ranks.rank == 1:
        again["w"]._local_tensor = torch.ones(4)
        again["v"].untyped_storage().resize_(0)
    found["freed"] = refused(again)
    return found


def save_again(directory: str) -> dict:
    """Later saves: the bytes that a rank sends, and which plans were used again."""
    ranks, plans = Counted(), SavePlans()
    one, other = _state(1), _state(2)
    other["more"] = torch.ones(3)
    found: dict[str, list] = {}

    def save(name: str, state: dict) -> None:
        ranks.sent = ranks.calls = 0
        path = os.path.join(directory, f"{name}_1.dcp")
        save_sharded(state, path, ranks, plans, manifest())
        kept = [plan.number for plan in plans._plans.values()]
        with open(os.path.join(path, ".metadata"), "rb") as file:
            found.setdefault(name, []).append(
                [kept[-1], ranks.sent, hash(file.read()), _by_stock(state, path)]
            )

    for _ in range(3):
        save("one", one)
        save("other", other)
    one["epoch"] = 10**9
    save("one", one)
    one["epoch"] = list(range(1000))  # outgrows its slot
    save("one", one)
    if ranks.rank == 1:  # one rank alone has more
        one["ranks"]["1"]["more"] = torch.ones(2)
    save("one", one)
    plans.drop() if ranks.rank == 0 else None
    save("one", one)
    return found


def write_by_dcp(directory: str) -> dict:
    """`dcp.save` and `dcp.async_save` by MarlinWriter: what stock reads, and what is left of failures."""
    rank, found = dist.get_rank(), {}
    state = _state(3)
    path = os.path.join(directory, "a_7.dcp")
    for name in ("new", "over", "async"):
        writer = MarlinWriter(path, metrics={"loss": torch.tensor(0.5)})
        if name == "async":
            dcp.async_save(state, storage_writer=writer).result()
        else:
            dcp.save(state, storage_writer=writer)
        found[name] = _by_stock(state, path)
    with open(os.path.join(path, ".marlin/manifest.json"), encoding="utf-8") as file:
        found["manifest"] = json.load(file)
    before = sorted(os.listdir(path))
    refusals: dict[str, tuple[dict, Any, dict]] = {
        "exists": (state, None, {"overwrite": False}),
        "caching": (state, dcp.DefaultSavePlanner(enable_plan_caching=True), {}),
        "sparse": ({"w": torch.eye(2).to_sparse()} if rank == 1 else {"v": torch.ones(1)}, None, {}),
    }
    dist.barrier()
    for name, (one, planner, how) in refusals.items():
        for _ in range(2 if name == "caching" else 1):  # the first save is whole, the second is refused
            writer = MarlinWriter(path if name != "caching" else f"{path}-caching", **how)
            try:
                dcp.save(one, storage_writer=writer, planner=planner)
            except dcp.CheckpointException as error:
                found[name] = str(error)
    dist.barrier()
    found["left"] = sorted(os.listdir(directory))  # though the writer lives on
    del writer
    found["stands"] = before == sorted(os.listdir(path)) and _by_stock(state, path)
    return found
