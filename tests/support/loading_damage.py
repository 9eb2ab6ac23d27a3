"""What the ranks of tests/unit/distributed/test_loading.py do."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import marlin_ckpt
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.reads import folder as folders
from marlin_ckpt.distributed.saving import save_sharded
from marlin_ckpt.errors import MarlinError, StorageError
from tests.support.dcp import flip
from tests.support.loading_ranks import manifest, memory_mb

ROWS = (1200, 512)  # two MiB and more
WHOLE = torch.arange(ROWS[0] * ROWS[1], dtype=torch.float32).reshape(ROWS)


def state(number: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    rank = dist.get_rank()
    module = {
        "weight": distribute_tensor(WHOLE + number, mesh, [Shard(0)], src_data_rank=None),
        "bias": torch.full((3,), number),
    }
    trainer = {
        "epoch": number,
        "ranks": {str(rank): {"rng": torch.full((5,), rank), "position": (number, rank)}},
    }
    return Checkpoint(module, trainer, {"scale": 0.5}).payload()


def live() -> Checkpoint:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    weight = distribute_tensor(torch.zeros(ROWS), mesh, [Shard(0)], src_data_rank=None)
    return Checkpoint({"weight": weight, "bias": torch.zeros(3, dtype=torch.int64)}, {}, {})


def save_two(place: str) -> None:
    """Saves the checkpoints 1 and 2, and as stock DCP does, `stock`."""
    ranks, plans = Ranks(), SavePlans()
    for number in (1, 2):
        save_sharded(state(number), f"{place}/run_{number}.dcp", ranks, plans, manifest(number))
    dcp.save(state(3), checkpoint_id=f"{place}/stock")


def _flip(name: str, at: float) -> Callable[[Path], None]:
    return lambda folder: flip(folder / name, int((folder / name).stat().st_size * at))


def _truncate(folder: Path) -> None:
    os.truncate(folder / "__1_0.distcp", 1_000_000)


def _replace(folder: Path) -> None:
    shutil.copy(folder.with_name("run_1.dcp") / "__1_0.distcp", folder / "__1_0.distcp")


DAMAGE = {
    "none": lambda _: None,
    "a flip that only rank 1 reads": _flip("__1_0.distcp", 0.7),
    "a flip that only rank 0 reads": _flip("__0_0.distcp", 0.4),
    "a shard that ends early": _truncate,
    "no shard": lambda folder: (folder / "__1_0.distcp").unlink(),
    "a shard of another save": _replace,
    "metadata": _flip(".metadata", 0.5),
    "no metadata": lambda folder: (folder / ".metadata").unlink(),
    "manifest": _flip(".marlin/manifest.json", 0.5),
}


def fall_back(place: str) -> dict[str, list[Any]]:
    """Damages the newer checkpoint in each way; which one is loaded then, and what is said of the other."""
    found = {}
    for number, (what, damage) in enumerate(DAMAGE.items()):
        directory = Path(place) / f"case{number}"
        if dist.get_rank() == 0:
            shutil.copytree(Path(place) / "saved", directory)
            damage(directory / "run_2.dcp")
        dist.barrier()
        args = DefaultCheckpointerArguments(
            checkpoint=False, load_dir=directory, file_prefix="run", save_dir=directory
        )
        checkpointer = DefaultCheckpointer(args)
        with mock.patch.object(checkpointer.logger, "warning") as warning:
            into = live()
            loaded = checkpointer.load(into)
        messages = [call.args[0] % call.args[1:] for call in warning.call_args_list]
        epoch = loaded.trainer_state["epoch"]
        right = torch.equal(into.module_interface_state["weight"].full_tensor(), WHOLE + epoch)
        bias = into.module_interface_state["bias"].tolist()
        of_ranks = {
            key: [one["rng"].tolist(), one["position"]] for key, one in loaded.trainer_state["ranks"].items()
        }
        named = _refusal(directory / "run_2.dcp")
        found[what] = [epoch, right, bias, of_ranks, messages, named]
    return found


def _refusal(path: Path) -> list[str]:
    try:
        marlin_ckpt.load(path, into=live().payload())
    except MarlinError as error:
        return [type(error).__name__, str(error), error.hint, *getattr(error, "tensors", ())]
    return []


def stop(place: str) -> list[str]:
    """One rank cannot read for another reason than damage: what each raises; then what each loads."""
    args = DefaultCheckpointerArguments(checkpoint=False, load_dir=place, file_prefix="run", save_dir=place)
    found = []
    for failing in (0, 1):
        with _failing(failing, StorageError("cannot read: denied", "x", errno=errno.EACCES)):
            try:
                DefaultCheckpointer(args).load(live())
                found.append("loaded")
            except MarlinError as error:
                found.append(f"{type(error).__name__}: {error}")
    with _failing(1, StorageError("cannot read: bad block", "x", errno=errno.EIO)):
        try:
            DefaultCheckpointer(args).load(live())
            found.append("loaded")
        except MarlinError as error:
            found.append(f"{type(error).__name__}: {error}")
    found.append(DefaultCheckpointer(args).load(live()).trainer_state["epoch"])
    return found


@contextmanager
def _failing(rank: int, error: Exception) -> Iterator[None]:
    def fail(*_: Any) -> None:
        raise error

    if dist.get_rank() != rank:
        yield
        return
    with mock.patch.object(folders.Sharded, "file", fail):
        yield


def peak(place: str) -> dict[str, float]:
    """The MB that a load takes at most beside the live tensors of 128 MB, by how these are sharded."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def parts(dimension: int, value: float) -> dict[str, Any]:
        wholes = (torch.full((4096, 2048), value + number) for number in range(8))
        return {
            str(number): distribute_tensor(one, mesh, [Shard(dimension)], src_data_rank=None)
            for number, one in enumerate(wholes)
        }

    folder = f"{place}/large_1.dcp"
    save_sharded(parts(0, 1), folder, Ranks(), SavePlans(), manifest(1))
    found = {}
    for name, dimension in (("warm", 0), ("rows", 0), ("columns", 1)):
        into = parts(dimension, 0)
        before = memory_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: proc(5)
        marlin_ckpt.load(folder, into=into)
        found[name] = memory_mb("VmHWM") - before
        assert all(bool((one.to_local() == int(key) + 1).all()) for key, one in into.items())
    return found
