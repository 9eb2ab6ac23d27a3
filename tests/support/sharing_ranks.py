"""What the ranks of tests/unit/checkpointer/test_sharing_of_ranks.py save."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import marlin_ckpt
from marlin_ckpt import (
    Checkpoint,
    CheckpointDirectory,
    CorruptCheckpointError,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    RetentionArguments,
    Saver,
    StorageError,
)
from marlin_ckpt.formats import digests
from marlin_ckpt.saving.sharing import decide
from marlin_ckpt.storage.local.cloning import MOST_BLOCK_BYTES
from marlin_ckpt.storage.paths import open_source
from tests.support.clones import Clones
from tests.support.saving_ranks import full, same, whole

LARGE = 300_000  # float32: more than a MiB, and no whole blocks


class Meddling(Clones):
    """Does something right before the next bytes are shared, if it is told to."""

    act: Callable[[], Any] | None = None

    @property
    def large(self) -> list[int]:
        """The lengths of what was shared, but for what tries whether anything can be."""
        return [size for _, size in self.shared if size > MOST_BLOCK_BYTES]

    def ioctl(self, fd: int, request: int, argument: Any) -> Any:
        act, self.act = self.act, None
        if act is not None:
            act()
        return super().ioctl(fd, request, argument)


def state_at(step: int) -> dict[str, Any]:
    """The same at all ranks that ask: what never changes, what changes, and what is small."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def rows(start: float) -> torch.Tensor:
        return distribute_tensor(whole(2 * LARGE, start=start).reshape(4, -1), mesh, [Shard(0)])

    return {
        "frozen": rows(1),
        "alike": whole(LARGE, start=7),
        "turns": rows(3).double() if step == 3 else rows(3),
        "trained": rows(step),
        "by rank": {str(dist.get_rank()): whole(LARGE, start=50 + dist.get_rank())},
        "small": torch.ones(3) * step,
        "step": step,
    }


def shard_in(path: str) -> str:
    return os.path.join(path, f"__{dist.get_rank()}_0.distcp")


def origins(path: str) -> dict[str, int]:
    """The number of the save that wrote each large tensor of this rank."""
    with open_source(shard_in(path)) as source:
        return {name: one.origin.save_number for name, one in (digests.read(source) or {}).items()}


@contextlib.contextmanager
def clones() -> Iterator[Meddling]:
    with pytest.MonkeyPatch.context() as patch:
        yield Meddling().put_in(patch)


def _saved(
    directory: str, steps: int, meddle: Callable[[int], None] = lambda _: None, **how: Any
) -> list[str]:
    """The paths of the checkpoints of a run; `meddle` is called before each save."""
    with CheckpointDirectory(directory, layout="sharded", share_unchanged=True, **how) as there:
        for step in range(steps):
            there.wait()
            dist.barrier()
            meddle(step)
            there.save(state_at(step), step)
    dist.barrier()
    return [os.path.join(directory, f"model_{step}.dcp") for step in range(steps)]


def _loads(path: str, step: int) -> bool:
    """Whether stock DCP, and these ranks by ours, read what was saved."""
    state = state_at(step)
    found = state_at(step + 1) if step != 2 else state_at(0)
    found["turns"] = torch.zeros_like(state["turns"])
    dcp.load(found, checkpoint_id=path)
    ours = state_at(step + 1)
    ours["turns"] = torch.zeros_like(state["turns"])
    try:
        marlin_ckpt.load(path, into=ours)
    except CorruptCheckpointError:
        return False
    ours["step"] = step  # a number is not loaded into its place
    return all(same(full(one), full(state)) for one in (found, ours))


WAYS = {"behind": {"asynchronous": True, "statistics": True}, "at once": {}}


def share_all(directory: str, ways: list[str]) -> dict[str, Any]:
    """Runs that share and one that does not: what each rank shares, and whether all is read as it was."""
    found: dict[str, Any] = {}
    for name in ways:
        how = WAYS[name]
        with clones() as made:
            paths = _saved(os.path.join(directory, name), 5, keep=2, **how)[3:]
            shared = made.large
        found[name] = {
            "shared": len(shared),
            "origins": [origins(path) for path in paths],
            "loads": [_loads(path, step) for step, path in enumerate(paths, 3)],
        }
    with clones() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decide, "is_full", lambda _: True)
        _saved(os.path.join(directory, "written"), 5, keep=2, statistics=True)
        assert not made.large
    return found


def save_in_each_way(directory: str) -> dict[str, Any]:
    """By a Saver and by a checkpointer, and where files cannot share."""
    found = {}
    here = os.path.join(directory, "saver")
    with clones(), Saver(share_unchanged=True) as saver:
        for step in range(3):
            saver.save(state_at(step), os.path.join(here, f"any name {step}.dcp"))
    dist.barrier()
    found["saver"] = origins(os.path.join(here, "any name 2.dcp"))
    here = os.path.join(directory, "checkpointer")
    args = DefaultCheckpointerArguments(
        save_dir=here, model_state_save_dir=None, share_unchanged=True, keep=RetentionArguments(last=2)
    )
    with clones(), DefaultCheckpointer(args) as checkpointer:
        for step in range(3):
            checkpointer.save(Checkpoint(state_at(step)), step)
    dist.barrier()
    found["checkpointer"] = origins(os.path.join(here, "model_2.dcp"))
    with clones() as made:
        made.code = errno.EOPNOTSUPP
        path = _saved(os.path.join(directory, "unable"), 1)[0]
        found["unable"] = Path(shard_in(path)).stat().st_size
    with CheckpointDirectory(os.path.join(directory, "without"), layout="sharded") as there:
        there.save(state_at(0), 0)
    dist.barrier()
    path = os.path.join(directory, "without", "model_0.dcp")
    found["without"] = Path(shard_in(path)).stat().st_size
    return found


def _truncated(shard: Path) -> None:
    os.truncate(shard, 5 * 4096)


def _replaced(shard: Path) -> None:
    other = shard.with_suffix(".other")
    other.write_bytes(bytes(shard.stat().st_size))
    other.rename(shard)


def _flipped(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes().translate(bytes(range(255, -1, -1))))


def _gone(shard: Path) -> None:
    shutil.rmtree(shard.parent)


def _rotten(shard: Path) -> None:
    """Bytes in the middle of it that the disk has lost, as nothing says that they were written."""
    before = shard.stat()
    with shard.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(b"rotten")
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = [
    (_replaced, "before"), (_rotten, "before"), (_flipped, "meanwhile"), (_gone, "before"),
    (_truncated, "meanwhile"),
]  # fmt: skip


def meddle_all(directory: str, count: int) -> dict[str, Any]:
    """Sources that change at rank 1: before it looks at them, and while it shares."""
    found: dict[str, Any] = {}
    for change, when in CHANGES[:count]:
        name = f"{change.__name__[1:]} {when}"
        here = os.path.join(directory, name)
        with clones() as made:
            how = {"asynchronous": change is _flipped, "statistics": True}
            path = _saved(here, 3, _Meddler(here, made, change, when), **how)[2]
            found[name] = [origins(path)["frozen"], made.act is None, _loads(path, 2)]
    return found


class _Meddler:
    """Changes a shard of rank 1 before the third save, or has it changed while that shares."""

    def __init__(self, directory: str, made: Meddling, change: Callable[[Path], None], when: str) -> None:
        shard = Path(shard_in(os.path.join(directory, "model_0.dcp")))
        self._change, self._made, self._when = lambda: change(shard), made, when

    def __call__(self, step: int) -> None:
        if step != 2 or dist.get_rank() != 1:
            return
        if self._when == "before":
            self._change()
        else:
            self._made.act = self._change


def refuse_all(directory: str) -> dict[str, Any]:
    """Systems that will not share at rank 1: what becomes of the save."""
    found: dict[str, Any] = {}
    is_it = dist.get_rank() == 1
    for code in (errno.EIO, errno.ENOSPC):
        here = os.path.join(directory, str(code))
        with clones() as made, CheckpointDirectory(here, layout="sharded", share_unchanged=True) as there:
            for step in range(2):
                there.save(state_at(step), step)
            dist.barrier()
            made.code, made.spoils = code if is_it else 0, True
            try:
                there.save(state_at(2), 2)
                error = 0
            except StorageError as failed:
                error = failed.errno
            dist.barrier()
            there_now = sorted(name for name in os.listdir(here) if not name.startswith(".marlin"))
            made.code = 0
            there.save(state_at(2), 3)
        dist.barrier()
        loads = [_loads(os.path.join(here, f"model_{index}.dcp"), min(index, 2)) for index in (0, 1, 3)]
        found[errno.errorcode[code]] = [error, there_now, loads]
    here = os.path.join(directory, "thread")
    state = state_at(0)
    with clones() as made, CheckpointDirectory(here, layout="sharded", share_unchanged=True) as there:
        for step in range(3):
            if step == 2:
                made.code = errno.EIO
                made.act = lambda: state["frozen"].to_local().add_(1)
            there.save(state, step)
    dist.barrier()
    found["changes meanwhile"] = same(
        full(state["frozen"]), marlin_ckpt.load(os.path.join(here, "model_2.dcp"))["frozen"]
    )
    return found
