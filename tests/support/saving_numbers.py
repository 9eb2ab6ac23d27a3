"""Ranks that save a number again and again, in tensors and values of all kinds, each way that there is."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import marlin_ckpt
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.directory import leftovers
from marlin_ckpt.distributed import MarlinWriter, roll_call
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import prepare, save_sharded, write
from marlin_ckpt.naming import folder_name
from tests.support.folder_checkpoints import about

ROWS, COLUMNS = 1000, 256  # of each rank: one MiB
_TIMEOUT_S = 30.0
SHORT_S = 2.0  # of the group that writes, where a save may fail and the next one has a new group
Tell = Callable[[str, Any], None]
Save = Callable[[dict[str, Any], str, int], Any]


class Place(NamedTuple):
    """Where a process is among those that save."""

    rank: int
    world_size: int
    store: str


def state_of(number: int, rank: int, mesh: Any) -> dict[str, Any]:
    rows = torch.full((ROWS, COLUMNS), float(number))
    return {
        "rows": DTensor.from_local(rows, mesh, [Shard(0)]),
        "whole": torch.full((5000,), float(number)),
        "ranks": {str(rank): {"own": torch.full((3000,), float(number)), "number": number}},
        "number": number,
    }


def _by_save_sharded(directory: str) -> Save:
    ranks, plans = Ranks(_TIMEOUT_S), SavePlans()
    if ranks.is_main:
        leftovers.sweep(directory, leftovers._logger)  # as whatever calls this does when it starts
    return lambda state, path, number: save_sharded(state, path, ranks, plans, about(number))


def _by_halves(directory: str) -> Save:
    ranks, writing, plans = Ranks(_TIMEOUT_S), Ranks(SHORT_S), SavePlans()
    if ranks.is_main:
        leftovers.sweep(directory, leftovers._logger)

    def save(state: dict[str, Any], path: str, number: int) -> None:
        write(prepare(state, path, ranks, plans, about(number), writing=writing), writing)

    return save


def _by_checkpointer(directory: str) -> Save:
    one = DefaultCheckpointer(
        DefaultCheckpointerArguments(
            save_dir=directory, load_dir=directory, file_prefix="m", layout="sharded", async_save=True,
            save_timeout=f"{2 * SHORT_S:g}s", log_level="CRITICAL",
        )
    )  # fmt: skip

    def save(state: dict[str, Any], path: str, number: int) -> list[int]:
        module = {name: state.pop(name) for name in ("rows", "whole")}
        found = folder_name(os.path.basename(path))
        one.save(Checkpoint(module, state, {}, metrics={"number": number}), found.index if found else 0)
        return [int(report.metrics["number"]) for report in one.take_reports()]

    return save


def _by_writer(_: str) -> Save:
    return lambda state, path, number: dcp.save(state, storage_writer=MarlinWriter(path, index=number))


def _by_stock(_: str) -> Save:
    return lambda state, path, _: dcp.save(state, checkpoint_id=path)


KINDS: dict[str, Callable[[str], Save]] = {
    "sharded": _by_save_sharded, "behind": _by_checkpointer, "halves": _by_halves, "writer": _by_writer,
    "stock": _by_stock,
}  # fmt: skip


def save_forever(kind: str, place: Place, path_of: Callable[[int], str], first: int, tell: Tell) -> None:
    """Saves one number after the other until that fails; tells of each when it begins and how it ended."""
    warnings.simplefilter("ignore")
    roll_call.PATIENCE_S = 0.5
    dist.init_process_group(
        "gloo", init_method=f"file://{place.store}", rank=place.rank, world_size=place.world_size,
        timeout=timedelta(seconds=_TIMEOUT_S),
    )  # fmt: skip
    mesh = init_device_mesh("cpu", (place.world_size,))
    save = KINDS[kind](os.path.dirname(path_of(first)))
    dist.barrier()
    for number in itertools.count(first):
        state = state_of(number, place.rank, mesh)
        tell("begun", number)
        try:
            durable = save(state, path_of(number), number)
        except (Exception, dcp.CheckpointException) as error:  # noqa: BLE001 - told
            tell("error", [number, f"{type(error).__name__}: {error}"[:1000]])
            if kind != "halves":
                os._exit(3)
        else:
            for one in durable if kind == "behind" else [number]:
                tell("durable", one)


def held_by(path: str, *, is_stock: bool) -> int | str:
    """The number that a folder holds, or what is wrong with it; one process loads all of it."""
    try:
        if is_stock:
            state = _loaded_by_stock(path)
        else:
            verdict = marlin_ckpt.verify(path)
            if verdict.status is not marlin_ckpt.Status.INTACT:
                return f"{verdict.status}: {verdict.reason}"
            state = marlin_ckpt.load(path)
            if "trainer_state" in state:
                state = {**state["module_interface_state"], **state["trainer_state"]}
            if len(state["rows"]) != ROWS * len(state["ranks"]):
                return "the parts of another number of ranks"
    except (Exception, dcp.CheckpointException) as error:  # noqa: BLE001 - told
        return f"does not load: {type(error).__name__}: {error}"[:300]
    found = sorted({*_numbers(state)})
    return f"a mixture of {found}" if len(found) > 1 else found[0]


def _loaded_by_stock(path: str) -> Any:
    about_it = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    flat = {
        name: torch.full(one.size, -1.0) if isinstance(one, dcp.metadata.TensorStorageMetadata) else -1
        for name, one in about_it.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(flat, checkpoint_id=path, no_dist=True)
    return flat


def _numbers(state: Any) -> Iterator[int]:
    if isinstance(state, torch.Tensor):
        yield from map(int, state.unique().tolist())
    elif isinstance(state, dict):
        for one in state.values():
            yield from _numbers(one)
    else:
        yield state
