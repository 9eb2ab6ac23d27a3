"""What ranks save in tests/adversity/test_sharded.py, while something goes wrong at one of them."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import marlin_ckpt
from marlin_ckpt.distributed import commit, roll_call
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import prepare, save_sharded, write
from marlin_ckpt.errors import MarlinError, RankError
from marlin_ckpt.storage.local import staging, temporary
from marlin_ckpt.storage.local import writer as local_writer
from tests.support.refused_calls import Refusal
from tests.support.saving_ranks import manifest
from tests.support.sharded_phases import at

NAME = "a_1.dcp"
_CODES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


def _state(ranks: Ranks, number: int) -> dict:
    own = {str(ranks.rank): {"w": torch.full((3000,), float(number)), "n": number}}
    return {"ranks": own, "n": number, "w": torch.full((70_000,), float(number))}


def what_stands(path: Path, world_size: int) -> int:
    """The number of the save that a folder is whole of; 0 where there is none.

    Raises:
        AssertionError: it is not whole, or of two saves.
    """
    import torch.distributed.checkpoint as dcp

    if not path.exists():
        return 0
    verdict = marlin_ckpt.verify(path)
    assert verdict.status is marlin_ckpt.Status.INTACT, verdict
    ranks = {str(rank): {"w": torch.zeros(3000), "n": -1} for rank in range(world_size)}
    state = {"ranks": ranks, "n": -1, "w": torch.zeros(70_000)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(state, checkpoint_id=path, no_dist=True)
    tensors = [state["w"], *(one["w"] for one in ranks.values())]
    numbers = {state["n"], *(one["n"] for one in ranks.values()), *(int(one[0]) for one in tensors)}
    assert len(numbers) == 1, numbers
    assert all(bool((one == one[0]).all()) for one in tensors)
    return numbers.pop()


class _Saving:
    """Saves one number after the other, and looks at what stands then."""

    def __init__(self, directory: str) -> None:
        self.ranks = Ranks(timeout_s=60)
        self.plans = SavePlans()
        self.path = Path(directory, NAME)
        self.number = 0

    def save(self, *, overwrite: bool = True) -> str:
        """Returns the error, without the rank that it happened at; "" where there was none."""
        self.number += 1
        state = _state(self.ranks, self.number)
        try:
            save_sharded(state, self.path, self.ranks, self.plans, manifest(), overwrite=overwrite)
        except MarlinError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def stands(self) -> int:
        stands = what_stands(self.path, self.ranks.world_size) if self.ranks.is_main else 0
        return int(self.ranks.told(stands))

    def check_next(self) -> None:
        """The next save works, and leaves nothing else."""
        assert self.save() == ""
        assert self.stands() == self.number
        self.ranks.meet()


def refuse_calls(directory: str, code: str, by: int, step: int) -> dict:
    """One rank's calls of the system fail, one after the other, over an older checkpoint and without one."""
    saving, found = _Saving(directory), {"tried": 0, "failed": 0, "fresh": 0}
    number = 0
    while True:
        if number % 3 == 0 and saving.ranks.is_main and saving.path.exists():
            marlin_ckpt.storage.local.staging.trees.remove_folder(
                os.open(directory, os.O_RDONLY), saving.path.name
            )  # fmt: skip
            found["fresh"] += 1
        before = saving.stands()
        refusal = Refusal(number, _CODES[code], lasts=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local_writer, "_LARGE_BYTES", 0 if number % 2 else 1 << 40)
            if saving.ranks.rank == by:
                refusal.put_in(patch)
            error = saving.save()
        errors = set(_all(saving.ranks, error.replace(f"rank {by}: ", "")))
        assert len(errors) == 1, errors
        after = saving.stands()
        assert after == saving.number if not error else after in (before, saving.number), (
            refusal.refused,
            error,
        )
        found["tried"] += 1
        found["failed"] += bool(error)
        if saving.ranks.total(refusal.calls > number)[0] == 0:
            break
        number += step
    saving.check_next()
    if saving.ranks.is_main:
        marlin_ckpt.directory.leftovers.sweep_beside(saving.path)
        found["left"] = os.listdir(directory)
    return found


def _all(ranks: Ranks, text: str) -> list[str]:
    gathered = ranks.gathered(text.encode())
    return ranks.told(gathered and [one.decode() for one in gathered])


def _raise(code: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def lack_abilities(directory: str) -> dict:
    """File systems that lack something, and ranks that see different ones."""
    saving, found = _Saving(directory), {}
    rank = saving.ranks.rank
    for name, module, attribute, code in (
        ("exchange", staging, "exchange", errno.EINVAL),
        ("flock", temporary.fcntl, "flock", errno.ENOTSUP),
    ):
        saving.check_next()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, attribute, _raise(code))
            found[name] = [saving.save(), saving.stands() == saving.number]
    saving.ranks.meet()
    found["left"] = os.listdir(directory)
    saving.ranks.meet()
    own = os.path.join(directory, f"node-{rank}")
    os.mkdir(own)
    plans = SavePlans()
    for name, check in {
        "save": lambda: write(
            prepare(_state(saving.ranks, 1), f"{own}/{NAME}", saving.ranks, plans, manifest()),
            saving.ranks,
            patience_s=0.2,
        ),
        "start": lambda: commit.check_shared(own, saving.ranks, patience_s=0.2),
        "shared": lambda: commit.check_shared(directory, saving.ranks, patience_s=0.2),
    }.items():
        try:
            check()
        except MarlinError as error:
            found[name] = [type(error).__name__, error.what.replace("rank 1: ", ""), error.hint]
    found["own"] = os.listdir(own)
    found["cut"] = _cut(saving)
    real, late, shown_late = os.stat, [], temporary.SUFFIX if rank else "__1_0.distcp"

    def stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(shown_late) and len(late) < 3:
            late.append(path)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return real(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit.os, "stat", stat)
        found["late"] = [saving.save(), len(late)]
    saving.check_next()
    return found


def _cut(saving: _Saving) -> list:
    """Rank 1 loses a byte of its shard before the ranks vote."""
    ranks, plans = saving.ranks, SavePlans()
    prepared = prepare(_state(ranks, 9), saving.path, ranks, plans, manifest())

    def cut() -> None:
        (shard,) = saving.path.parent.glob(f".{NAME}*/__1_0.distcp")
        os.truncate(shard, shard.stat().st_size - 1)

    kept = len(plans._plans)
    try:
        with at("voting", cut if ranks.rank == 1 else lambda: None):
            write(prepared, ranks, patience_s=0.1)
    except MarlinError as error:
        return [error.what.replace("rank 0: ", ""), kept, len(plans._plans), saving.stands() == saving.number]
    return []


def stop_one(directory: str, phases: list[str]) -> dict:
    """Rank 1 is stopped at a phase: what each rank raises, and that they go on with a new group."""
    roll_call.PATIENCE_S = 0.5
    saving, writing, found = _Saving(directory), Ranks(timeout_s=1.5), {}
    rank, pids = saving.ranks.rank, [int(one) for one in _all(saving.ranks, str(os.getpid()))]
    saving.check_next()
    store = dist.distributed_c10d._get_default_store()
    for phase in phases:
        before = saving.stands()
        saving.number += 1
        state = _state(saving.ranks, saving.number)
        prepared = prepare(
            state, saving.path, saving.ranks, saving.plans, manifest(), writing=writing
        )  # fmt: skip
        began = time.monotonic()
        error = ""
        try:
            if rank == 1:
                with at(phase, lambda: os.kill(os.getpid(), signal.SIGSTOP)):
                    write(prepared, writing)
            else:
                write(prepared, writing)
        except RankError as failed:
            error = str(failed)
        took = time.monotonic() - began
        if rank == 2:
            store.set(f"failed at {phase}", "")
        if rank == 0:
            store.wait([f"failed at {phase}"])
            os.kill(pids[1], signal.SIGCONT)
        after = saving.stands()
        found[phase] = [error, took < 30, after - before]
        prepared = prepare(
            _state(saving.ranks, saving.number + 1), saving.path, saving.ranks, saving.plans, manifest(),
            writing=writing,
        )  # fmt: skip
        saving.number += 1
        write(prepared, writing)
        assert saving.stands() == saving.number
    saving.ranks.meet()
    found["left"] = os.listdir(directory)
    return found


def killed(directory: str, phase: str, ranks_killed: list[int], fresh: bool) -> None:
    """Some ranks are killed at a phase; the others say what they raise, and end."""
    roll_call.PATIENCE_S = 0.5
    saving = _Saving(directory)
    if not fresh:
        saving.check_next()
    saving.number = 1
    if saving.ranks.rank in ranks_killed:
        with at(phase, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            saving.save()
    sys.stderr.write(f"{saving.save()}\n")
    sys.stderr.flush()
    os._exit(3)
