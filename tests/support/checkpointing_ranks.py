"""What the ranks of tests/unit/checkpointer/test_ranks.py save and load."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed._shard import sharded_tensor
from torch.distributed._shard.sharding_spec import ChunkShardingSpec
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import marlin_ckpt
from marlin_ckpt import (
    Checkpoint,
    CheckpointDirectory,
    CorruptCheckpointError,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
)
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.formats.torch import reader
from tests.support.saving_ranks import full, same


class Run:
    """A model of FSDP2 and its optimizer, which every rank trains on data of its own."""

    def __init__(self, seed: int = 1, **how: Any) -> None:
        torch.manual_seed(seed)
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        self.model = torch.nn.Sequential(
            torch.nn.Linear(7, 65), torch.nn.LayerNorm(65), torch.nn.Linear(65, 5)
        )
        for layer in self.model:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, **how)
        torch.manual_seed(seed + dist.get_rank())
        self.steps = 0

    def backward(self) -> None:
        self.model(torch.randn(4, 7)).square().sum().backward()

    def step(self) -> None:
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1

    def state(self) -> Checkpoint:
        rank = str(dist.get_rank())
        return Checkpoint(
            self.model.state_dict(),
            {
                "optimizers": [self.optimizer.state_dict()],
                "steps": self.steps,
                "ranks": {rank: {"rng": torch.get_rng_state(), "rank": rank}},
            },
            metrics={"loss": 0.5},
        )

    def whole(self) -> dict[str, Any]:
        """All that a checkpoint has of it, as it is now."""
        state = self.state()
        found = full({"model": state.module_interface_state, "trainer": state.trainer_state})
        return _cloned(found)


def _cloned(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _cloned(one) for key, one in state.items()}
    return [*map(_cloned, state)] if isinstance(state, list) else state


def checkpointer(directory: str, **args: Any) -> DefaultCheckpointer:
    made = {"save_dir": directory, "load_dir": directory, "model_state_save_dir": directory, **args}
    return DefaultCheckpointer(DefaultCheckpointerArguments(**{"save_timeout": "30s", **made}))


def save_and_load(directory: str) -> dict[str, Any]:
    """Saves a run in each way, trains on meanwhile, and loads it again: whether it is what it was."""
    found: dict[str, Any] = {}
    ranks = Ranks()
    for name, how, args in (
        ("sync", {}, {}),
        ("async", {}, {"async_save": True, "statistics": True}),
        ("foreach", {"foreach": True}, {"async_save": True}),
        ("fused", {"fused": True}, {"async_save": True, "check_overlap": True}),
        ("file", {}, {"layout": "file"}),
        ("file-async", {"foreach": True}, {"layout": "file", "async_save": True}),
    ):
        here = os.path.join(directory, name)
        run = Run(**how)
        was, paths = {}, []
        with checkpointer(here, **args) as one:
            one.register(run.optimizer)
            for index in range(1, 4):
                run.step()
                was = run.whole()
                paths.append(one.save(run.state(), index))
                run.backward()
            run.step()
            one.wait()
            reports = one.take_reports()
            model = one.save_model(run.model.state_dict(), 3)
        other = Run(seed=9, **how)
        other.step()
        into = Checkpoint(other.model, {"optimizers": [other.optimizer]})
        loaded = checkpointer(here).load(into=into)
        now = other.whole()
        trained = loaded.trainer_state
        found[name] = {
            "paths": [os.path.relpath(path, here) for path in paths],
            "listed": sorted(os.listdir(here)),
            "model": same(was["model"], now["model"]),
            "optimizer": same(was["trainer"]["optimizers"], now["trainer"]["optimizers"]),
            "steps": trained["steps"],
            "own": trained["ranks"][str(ranks.rank)]["rank"] == str(ranks.rank),
            "rng": same(*(one["ranks"][str(ranks.rank)]["rng"] for one in (was["trainer"], trained))),
            "reports": [[one.index, one.size_bytes > 0] for one in reports],
            "model file": same(full(run.model.state_dict()), marlin_ckpt.load(model)),
            "metrics": loaded.metrics,
        }
    return found


def save_in_store(url: str) -> list[Any]:
    """Saves a run behind the loop to an object store, and loads it: the path, and whether it is the same."""
    run, other = Run(), Run(seed=9)
    with checkpointer(url, async_save=True) as one:
        run.step()
        was, path = run.whole(), one.save(run.state(), 1)
        run.step()
    other.step()
    checkpointer(url).load(into=Checkpoint(other.model, {"optimizers": [other.optimizer]}))
    now = other.whole()
    optimizers = (whole["trainer"]["optimizers"] for whole in (was, now))
    return [path, same(was["model"], now["model"]), same(*optimizers)]


def save_anything(directory: str) -> list[bool]:
    """A folder by `marlin_ckpt.save` and by a Saver: whether it is what was there."""
    run, found = Run(), []
    run.step()
    for number, asynchronous in enumerate((None, False, True)):
        path = os.path.join(directory, f"x_{number}.dcp")
        run.step()
        was = run.whole()
        state = {"model": run.model, "optimizer": run.optimizer}
        if asynchronous is None:
            marlin_ckpt.save(state, path)
        else:
            with marlin_ckpt.Saver(asynchronous=asynchronous) as saver:
                saver.save(state, path)
                run.step()
        other = Run(seed=9)
        other.step()
        marlin_ckpt.load(path, into={"model": other.model, "optimizer": other.optimizer})
        now = other.whole()
        found += [
            same(was["model"], now["model"]),
            same(*(one["trainer"]["optimizers"] for one in (was, now))),
        ]
    return found


def save_files(directory: str) -> dict[str, Any]:
    """Files by `marlin_ckpt.save` and by Savers: of DTensors by all ranks, of all else by each for itself."""
    rank, run, found = dist.get_rank(), Run(), {}
    state, wholes = {"model": run.model, "optimizer": run.optimizer, "rank": rank}, {}
    for name, asynchronous in (("now", None), ("saver", False), ("behind", True)):
        here, told = os.path.join(directory, name), []
        run.step()
        wholes[name] = run.whole()
        if asynchronous is None:
            report = marlin_ckpt.save(state, os.path.join(here, "all.pt"), statistics=True)
            found["size"] = report.size_bytes == os.path.getsize(report.path)
            if rank == 1:
                marlin_ckpt.save({"by": rank}, os.path.join(here, "one.pt"))
            marlin_ckpt.save({"by": torch.full((100_000,), rank)}, os.path.join(here, "same.pt"))
        else:
            with marlin_ckpt.Saver(asynchronous=asynchronous, on_durable=told.append) as saver:
                saver.save(state, os.path.join(here, "all.pt"))
                if rank == 1:
                    saver.save({"by": rank}, os.path.join(here, "one.pt"))
                run.step()
                saver.save(state, os.path.join(here, "all.dcp"))
                saver.save({"by": torch.full((100_000,), rank)}, os.path.join(here, "same.pt"))
                found[f"{name} run"] = saver.run_id
            found[f"{name} told"] = [os.path.basename(one.path) for one in told]
        dist.barrier()
        found[f"{name} listed"] = sorted(os.listdir(here))
        loaded = torch.load(os.path.join(here, "all.pt"))
        found[f"{name} whole"] = [
            same(wholes[name]["model"], dict(loaded["model"])),
            same(wholes[name]["trainer"]["optimizers"], [loaded["optimizer"]]),
            loaded["rank"],
        ]
        by = marlin_ckpt.load(os.path.join(here, "same.pt"))["by"]
        found[f"{name} by one"] = [bool((by == by[0]).all()), marlin_ckpt.load(os.path.join(here, "one.pt"))]
    return found


def refuse(directory: str) -> list[str]:
    """Calls that are wrong at one rank or at all: what each raises; then one that is right."""
    rank, run, found = dist.get_rank(), Run(), []
    state = {"model": run.model}
    spec = ChunkShardingSpec(dim=0, placements=["rank:0/cpu", "rank:1/cpu"])
    of_fsdp1 = sharded_tensor.rand(spec, 4, 4)

    def path(name: str) -> str:
        return os.path.join(directory, name)

    for work in (
        lambda: marlin_ckpt.save(state, path("a.pt"), index=-rank),
        lambda: marlin_ckpt.save(state, directory),
        lambda: marlin_ckpt.save(state, path(f"a_{rank}.dcp")),
        lambda: marlin_ckpt.save(state, path("a.pt"), overwrite=False),
        lambda: marlin_ckpt.save(state, path("a.pt"), overwrite=False),
        lambda: marlin_ckpt.save(state, path("b.dcp")),
        lambda: marlin_ckpt.load(path(f"{'ab'[rank]}.dcp")),
        lambda: marlin_ckpt.load(path("b.dcp"), into=3 if rank else state),
        lambda: marlin_ckpt.load(path("b.dcp"), into=state),
        lambda: marlin_ckpt.save({"w": of_fsdp1}, path("c.pt")),
        lambda: marlin_ckpt.save({"w": of_fsdp1}, path("c.dcp")),
        lambda: marlin_ckpt.save({"held": SimpleNamespace(w=run.model[0].weight)}, path("c.pt")),
    ):
        try:
            work()
            found.append("done")
        except marlin_ckpt.MarlinError as error:
            found.append(f"{type(error).__name__}: {error}".replace(f"{directory}/", ""))
    return found


def in_a_directory(directory: str) -> dict[str, Any]:
    """A CheckpointDirectory in each layout: what is there, and what all ranks load."""
    rank, found = dist.get_rank(), {}
    for layout, asynchronous in (("auto", True), ("file", True), ("sharded", False)):
        here, run, told = os.path.join(directory, layout), Run(), []
        with CheckpointDirectory(
            here, keep=2, layout=layout, asynchronous=asynchronous, on_durable=told.append
        ) as checkpoints:
            for index in range(1, 4):
                run.step()
                live = {"model": run.model, "optimizer": run.optimizer, "index": index}
                checkpoints.save(live, index, metrics={"loss": index})
            was = run.whole()
            other = Run(seed=9)
            loaded = checkpoints.load(into={"model": other.model, "optimizer": other.optimizer})
            now = other.whole()
            found[layout] = {
                "listed": sorted(os.listdir(here)), "told": [one.index for one in told],
                "run": [checkpoints.run_id, checkpoints.latest().run_id],
                "loaded": loaded["index"], "model": same(was["model"], now["model"]),
                "optimizer": same(was["trainer"]["optimizers"], now["trainer"]["optimizers"]),
                "others": [checkpoints.load("best", metric="loss")["index"], checkpoints.load(2)["index"]],
            }  # fmt: skip
    dist.barrier()
    # A plain state is rank 0's; the newest file is damaged as rank 1 alone sees it.
    checkpoints = CheckpointDirectory(os.path.join(directory, "plain"))
    weight, errors = torch.zeros(1000), []
    for index in (1, 2) if rank == 0 else ():
        checkpoints.save({"weight": torch.full((1000,), index), "index": index}, index)
    dist.barrier()
    read = reader.read_any
    bad = CorruptCheckpointError("flipped", "model_2.pt")

    def damaged(path: str, **how: Any) -> Any:
        if rank == 1 and path.endswith("model_2.pt"):
            raise bad
        return read(path, **how)

    with mock.patch.object(reader, "read_any", damaged):
        found["plain"] = checkpoints.load(into={"weight": weight})["index"], float(weight.sum())
    for place, prefix, which in (
        ("plain", "model", 7),
        ("plain", "other", "latest"),
        ("plain", "model", rank),
        (f"plain-{rank}", "model", "latest"),
    ):
        try:
            CheckpointDirectory(os.path.join(directory, place), prefix=prefix).load(which)
        except marlin_ckpt.MarlinError as error:
            errors.append(str(error).replace(f"{directory}/", ""))
    try:
        checkpointer(os.path.join(directory, f"plain-{rank}")).load()
    except marlin_ckpt.RankError as error:
        errors.append(str(error).replace(f"{directory}/", ""))
    found["errors"] = errors
    return found
