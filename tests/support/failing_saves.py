"""What ranks save in tests/adversity/test_failing_saves.py, while the saves of some of them fail."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import marlin_ckpt
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, RetentionArguments
from marlin_ckpt.distributed import commit, roll_call
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import MarlinError
from tests.support.sharded_phases import at


class Saving:
    """Saves one number after the other by a checkpointer; all ranks of a run have one."""

    def __init__(self, directory: str, *, name: str = "m", **args: Any) -> None:
        self.ranks = Ranks(timeout_s=60)
        self.mesh = init_device_mesh("cpu", (self.ranks.world_size,))
        self.directory, self.number = directory, 0
        made = {"save_dir": directory, "load_dir": directory, "save_timeout": "30s", "log_level": "CRITICAL"}
        made |= {"file_prefix": name, **args}
        self.checkpointer = DefaultCheckpointer(DefaultCheckpointerArguments(**made))

    def state(self, number: int) -> Checkpoint:
        rows = torch.full((50, 20), float(number))
        rank = str(self.ranks.rank)
        return Checkpoint(
            {
                "rows": DTensor.from_local(rows, self.mesh, [Shard(0)]),
                "whole": torch.full((30,), float(number)),
            },
            {"ranks": {rank: {"own": torch.full((3,), float(number))}}, "number": number},
        )

    def save(self, state: Checkpoint | None = None, *, waits: bool = True) -> str:
        """Saves the next number; returns what that raised, or the name of the file, or "None"."""
        self.number += 1
        return outcome(lambda: self._saved(state or self.state(self.number), waits=waits))

    def _saved(self, state: Checkpoint, *, waits: bool) -> str | None:
        path = self.checkpointer.save(state, self.number)
        if waits:
            self.checkpointer.wait()
        return path and os.path.basename(path)

    def stands(self) -> list[int]:
        """The number that each checkpoint is whole of; all ranks call this."""
        names = self.ranks.told(visible(self.directory) if self.ranks.is_main else None)
        return [whole_number(os.path.join(self.directory, name)) for name in names]


def visible(directory: str) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name != ".marlin-ckpt")


def whole_number(path: str) -> int:
    state = marlin_ckpt.load(path)
    tensors = [*state["module_interface_state"].values()]
    tensors += [one["own"] for one in state["trainer_state"]["ranks"].values()]
    numbers = {state["trainer_state"]["number"], *(int(one) for each in tensors for one in each.unique())}
    assert len(numbers) == 1, (path, numbers)
    return int(numbers.pop())


def outcome(work: Callable[[], Any]) -> str:
    try:
        return str(work())
    except (MarlinError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def _raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@contextlib.contextmanager
def refusing(code: int, *, once: bool = False) -> Iterator[None]:
    """Has this rank's calls of fsync fail, the first one or all."""
    real, refused = os.fsync, []

    def fsync(fd: int) -> None:
        if once and refused:
            real(fd)
            return
        refused.append(fd)
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


def refuse(directory: str, cases: list[list]) -> list:
    """The disk of one rank is full, or broken, while all save: what each save said, and what stands then."""
    found = []
    for number, (layout, is_async, on_error, by) in enumerate(cases):
        args = {"layout": layout, "async_save": is_async, "on_save_error": on_error}
        saving = Saving(os.path.join(directory, str(number)), **args)
        code = errno.ENOSPC if is_async else errno.EIO
        said = [saving.save()]
        with refusing(code) if saving.ranks.rank == by else contextlib.nullcontext():
            said.append(saving.save())
        said.append(saving.save())
        found.append([said, saving.stands(), [one.error for one in saving.checkpointer.failed_saves()]])
        saving.checkpointer.close()
    return found


def fail_unlike(directory: str) -> dict:
    """Ranks that fail at the same time in different ways, and one that fails in a way of its own."""
    saving = Saving(directory, on_save_error="warn")
    rank, found = saving.ranks.rank, {}
    with refusing((errno.EIO, errno.ENOSPC)[rank]):
        found["unlike"] = [saving.save(), saving.checkpointer.failed_saves()[-1].error]
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(commit, "find", _raising(KeyError("none of ours")))
        found["foreign"] = saving.save()
        saving.checkpointer.args.async_save = True
        found["foreign behind"] = saving.save()
    found["next"] = [saving.save(), saving.stands()]
    saving.checkpointer.args.keep = RetentionArguments(last=1)
    more = [Saving(directory, async_save=behind) for behind in (False, True)]
    for number, one in enumerate(more):
        one.number = 10 * (number + 1)
        one.save(), one.save()
        one.checkpointer.args.keep = RetentionArguments(last=1)
        with refusing(errno.ENOSPC, once=True) if rank == 1 else contextlib.nullcontext():
            found[f"room {number}"] = [one.save(), visible(directory)]
            one.ranks.meet()
    return found


def stop_one(directory: str, kinds: dict) -> dict:
    """Rank 1 is stopped in a save for longer than two of the others wait; then all go on."""
    roll_call.PATIENCE_S = 0.2
    store, found = dist.distributed_c10d._get_default_store(), {}
    for name, args in kinds.items():
        saving = Saving(os.path.join(directory, name), on_save_error="warn", save_timeout="1.5s", **args)
        rank, pids = saving.ranks.rank, saving.ranks.exchanged(str(os.getpid()).encode())
        assert saving.save() == "m_1.dcp"
        if rank == 1:
            with at("writing", lambda: os.kill(os.getpid(), signal.SIGSTOP)):
                saving.save()
        else:
            saving.save()
            saving.save()
            store.set(f"failed at {rank} {name}", "")
        if rank == 0:
            store.wait([f"failed at 2 {name}"])
            os.kill(int(pids[1]), signal.SIGCONT)
        errors = [one.error for one in saving.checkpointer.failed_saves()]
        saving.ranks.meet()  # as steps of training would
        saving.number = 3
        found[name] = [errors, saving.save(), saving.stands()]
        saving.checkpointer.close()
    return found


def lose_one(directory: str, behind: bool) -> dict:
    """Rank 1 is killed while it saves, and the others have ten minutes: what they are told."""
    saving = Saving(directory, async_save=behind, save_timeout="10m")
    found = [saving.save()]
    if saving.ranks.rank == 1:
        with at("writing", lambda: os.kill(os.getpid(), signal.SIGKILL)):
            saving.save()
    found += [saving.save(waits=False), saving.save(), outcome(saving.checkpointer.close)]
    sys.stderr.write(json.dumps(found))
    sys.stderr.flush()
    os._exit(3)


def part(directory: str) -> None:
    """The process group is destroyed while all save in the background."""
    saving = Saving(directory, async_save=True)
    said = [saving.save(), saving.save(waits=False)]
    dist.destroy_process_group()
    said.append(outcome(saving.checkpointer.close))
    sys.stderr.write(json.dumps(said))
    sys.stderr.flush()
    os._exit(3)


def see_own(directory: str) -> dict:
    """Each rank saves in a directory of its own."""
    own = os.path.join(directory, os.environ["RANK"])
    commit.PATIENCE_S = 0.2
    saving = Saving(own)
    return {"said": saving.save(), "there": os.listdir(directory)}


def alternate(directory: str) -> dict:
    """Two savers and two kinds of states by turns; then one rank changes what it has."""
    one, other = (Saving(directory, name=name, async_save=True) for name in ("one", "other"))
    rank = str(one.ranks.rank)

    def averaged(number: int) -> Checkpoint:
        state = one.state(number)
        state.module_interface_state["more"] = torch.full((7,), float(number))
        return state

    for number in range(1, 7):
        one.save(averaged(number) if number % 2 else None, waits=False)
        other.save(waits=False)
    state = one.state(7)
    if rank == "1":
        state.trainer_state["ranks"][rank]["mine"] = torch.full((9,), 7.0)
    one.save(state)
    one.save()
    other.checkpointer.wait()
    found = {name: whole_number(os.path.join(directory, name)) for name in one.ranks.told(visible(directory))}
    last = marlin_ckpt.load(os.path.join(directory, "one_7.dcp"))["trainer_state"]["ranks"]
    return {"found": found, "mine": [one for one in last if "mine" in last[one]]}
