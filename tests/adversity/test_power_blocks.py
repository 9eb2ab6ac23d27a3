"""What is left on real XFS and btrfs of saves that share blocks if the power goes at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from marlin_ckpt import CheckpointDirectory, Status, verify
from marlin_ckpt.storage.local import cloning, writer
from marlin_ckpt.storage.local.temporary import is_temporary
from tests.support.replayed_disk import SYSTEMS, Recording, Replay, memory, mounted, recording

KEPT, SAVES = 3, 13
ELEMENTS = 500_000  # of each tensor: 2 MB


class Saved(NamedTuple):
    """A save that was recorded: when it began, when it was reported, and the bytes of its file."""

    begun: int
    reported: int
    digest: str


def state_of(index: int) -> dict[str, torch.Tensor]:
    """A model of 12 MB of which 2 MB change."""
    frozen = {f"frozen.{n}": torch.arange(ELEMENTS) * 1.5 + n for n in range(5)}
    return {**frozen, "trained": torch.arange(ELEMENTS) + index * 1e6, "step": torch.tensor(index)}


def digest_of(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def path_of(run: Path, index: int) -> Path:
    return run / f"model_{index}.pt"


def skip_fsync(patch: pytest.MonkeyPatch, *, of_checkpoints: bool) -> None:
    """Leaves out those of checkpoints, or all others: of directories and of what else a save writes."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if is_temporary(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))) != of_checkpoints:
            real(fd)

    patch.setattr(os, "fsync", fsync)


@pytest.fixture(params=SYSTEMS)
def system(request, cases) -> str:
    """The name of a file system; what is here needs root and some minutes, and is for the campaign."""
    needed = [SYSTEMS[request.param].make[0], "losetup", "mount"]
    if (
        not cases(0, 1)
        or os.geteuid()
        or not os.path.exists("/dev/fuse")
        or not all(map(shutil.which, needed))
    ):
        pytest.skip("needs --campaign, root, /dev/fuse, mkfs.xfs and mkfs.btrfs")
    return request.param


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory() as place:
        yield place


def record(folder: Path, system: str, saves: int = SAVES) -> tuple[Recording, list[Saved]]:
    shared, real = [], cloning.clone_range
    with recording(folder, system) as (recorded, disk), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloning, "clone_range", lambda *how: (real(*how), shared.append(how)))
        run, found = disk / "run", []
        with CheckpointDirectory(run, keep=KEPT, share_unchanged=True) as there:
            for index in range(saves):
                begun = recorded.moment()
                there.save(state_of(index), index)
                found.append(Saved(begun, recorded.moment(), digest_of(path_of(run, index))))
        assert len([how for how in shared if how[-1] >= ELEMENTS]) >= saves
    return recorded, found


def violations(run: Path, saves: list[Saved], moment: int) -> list[str]:
    """What a power loss at a moment must not have left: lost, torn or wrong checkpoints."""
    there = {index for index in range(len(saves)) if path_of(run, index).exists()}
    wrong = []
    for index, saved in enumerate(saves):
        # The rules let go what has so many newer ones, once they are durable and not before.
        newer = [one for one in there if one > index]
        if saved.reported <= moment and index not in there and len(newer) < KEPT:
            wrong.append(f"save {index} was reported and is gone")
    for index in sorted(there):
        path = path_of(run, index)
        if digest_of(path) != saves[index].digest:
            wrong.append(f"save {index} has other bytes")
        if (status := verify(path).status) is not Status.INTACT:
            wrong.append(f"save {index} is {status}")
    return wrong


def goes_on(run: Path, following: int) -> list[str]:
    """What is wrong with a run that starts from what is left, and saves once more."""
    newest = max((index for index in range(following) if path_of(run, index).exists()), default=None)
    wrong = []
    with CheckpointDirectory(run, keep=KEPT, share_unchanged=True) as there:
        if newest is not None:
            state, expected = there.load(), state_of(newest)
            wrong = [name for name, tensor in expected.items() if not torch.equal(state[name], tensor)]
        there.save(state_of(following), following)
    status = verify(path_of(run, following)).status
    return wrong if status is Status.INTACT else [*wrong, f"the next save is {status}"]


def faults(
    folder: Path, recorded: Recording, saves: list[Saved], moments: Iterable[int], rng: random.Random
) -> Iterator[str]:
    """Mounts what can be left at each moment, and says what is wrong there."""
    with contextlib.closing(Replay(recorded, folder)) as replay:
        for moment in sorted(moments):
            with mounted(replay.left(moment, rng), recorded.system, folder / "mounted") as disk:
                run = disk / "run"
                wrong = violations(run, saves, moment) or goes_on(run, len(saves))
            yield from (f"at {moment}: {one}" for one in wrong)


@pytest.mark.parametrize("is_direct", [False, True], ids=["through the page cache", "past it"])
def test_a_power_loss_at_any_moment_leaves_what_was_reported_on_the_disk(
    system, folder, is_direct, monkeypatch
):
    monkeypatch.setattr(writer, "_LARGE_BYTES", 0 if is_direct else sys.maxsize)
    recorded, saves = record(folder, system)
    rng = random.Random(system)
    moments = rng.choices(recorded.moments(), k=150)
    moments += [moment for saved in saves for moment in (saved.begun, saved.reported)]
    assert list(faults(folder, recorded, saves, moments, rng)) == []


@pytest.mark.parametrize("of_checkpoints", [True, False], ids=["of checkpoints", "of all else"])
def test_without_an_fsync_a_checkpoint_that_shares_could_be_lost(system, folder, of_checkpoints):
    with pytest.MonkeyPatch.context() as patch:
        skip_fsync(patch, of_checkpoints=of_checkpoints)
        recorded, saves = record(folder, system, 5)
    # The first two saves share nothing.
    moments = [one for one in recorded.moments() if saves[2].begun < one <= saves[-1].reported]
    with contextlib.closing(faults(folder, recorded, saves, moments, random.Random(1))) as found:
        assert any(found)
