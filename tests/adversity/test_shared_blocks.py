"""Saves that share blocks on real, small XFS and btrfs: full disks, and files that change under a save."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from marlin_ckpt import CheckpointDirectory, CorruptCheckpointError, Status, StorageError, load, verify
from marlin_ckpt.storage.local import cloning
from marlin_ckpt.storage.local.temporary import is_temporary
from tests.support.shared_saves import origins, states_of_a_run

DISK_BYTES = 340 << 20
SYSTEMS = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q", "-M"]}


@pytest.fixture(scope="module", params=SYSTEMS)
def disk(request, tmp_path_factory, cases) -> Iterator[Path]:
    """A file system of its own; what is here needs root and some seconds, and is for the campaign."""
    if not cases(0, 1) or os.geteuid() or not shutil.which(SYSTEMS[request.param][0]):
        pytest.skip("needs --campaign, root, mkfs.xfs and mkfs.btrfs")
    top = tmp_path_factory.mktemp(request.param)
    (place := top / "disk").mkdir()
    with open(image := top / "image", "wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run([*SYSTEMS[request.param], str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def there(disk) -> Iterator[Path]:
    """An empty directory on it."""
    (place := disk / "run").mkdir()
    yield place
    shutil.rmtree(place)
    (disk / "filler").unlink(missing_ok=True)


def fill(disk: Path, leaving: int) -> None:
    """Takes all room but so much, as far as the file system lets it."""
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while (status := os.statvfs(disk)).f_bavail * status.f_frsize > leaving:
                file.write(bytes(min(1 << 20, max(4096, status.f_bavail * status.f_frsize - leaving))))
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def test_a_disk_that_runs_full_in_a_save_that_shares_leaves_whole_files_alone(disk, there):
    ends: Counter[str] = Counter()
    states = states_of_a_run(3)
    for leaving in [*range(0, 4 << 20, 256 << 10), 8 << 20]:
        run = there / str(leaving)
        with CheckpointDirectory(run, share_unchanged=True, statistics=False) as saves:
            saves.save(states[0], 0)
            saves.save(states[1], 1)
            before = {path.name: path.read_bytes() for path in run.glob("*.pt")}
            fill(disk, leaving)
            try:
                saves.save(states[2], 2)
                ends["saved"] += 1
                assert verify(run / "model_2.pt").status is Status.INTACT
                assert torch.equal(load(run / "model_2.pt")["frozen"], states[2]["frozen"])
            except StorageError as error:
                ends["full" if error.errno == errno.ENOSPC else "failed"] += 1
            assert {name: (run / name).read_bytes() for name in before} == before
            (disk / "filler").unlink()
            assert [name for name in os.listdir(run) if is_temporary(name)] == []
            saves.save(states[2], 2)
            assert verify(run / "model_2.pt").status is Status.INTACT
        shutil.rmtree(run)
    assert ends.keys() == {"saved", "full"}


def flipped(path: Path, rng: random.Random) -> None:
    """A block of other bytes, past the page cache."""
    at = rng.randrange(path.stat().st_size // 4096) * 4096
    fd, block = os.open(path, os.O_RDWR | os.O_DIRECT), mmap.mmap(-1, 4096)
    os.preadv(fd, [block], at)
    block[:] = block[:].translate(bytes(range(255, -1, -1)))
    os.pwritev(fd, [block], at)
    os.close(fd)


def unseen(path: Path, rng: random.Random) -> None:
    """The same, with the time that it had."""
    before = path.stat()
    flipped(path, rng)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncated(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def replaced(path: Path, rng: random.Random) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(rng.randbytes(path.stat().st_size))
    other.rename(path)


@pytest.mark.parametrize("is_before", [False, True], ids=["after its blocks were shared", "before"])
@pytest.mark.parametrize("meddle", [flipped, unseen, truncated, replaced])
def test_a_file_that_changes_as_its_blocks_are_shared_gives_no_wrong_file_that_is_called_intact(
    there, monkeypatch, meddle, is_before
):
    rng, states, ends = random.Random(meddle.__name__), states_of_a_run(3), Counter()
    real = cloning.clone_range
    for number in range(8):
        run = there / str(number)
        pending = []

        def clone(*arguments: int, run: Path = run, pending: list = pending) -> None:
            now = [pending.pop()] if pending else []
            for one in now if is_before else ():
                one(run / "model_0.pt", rng)
            real(*arguments)
            for one in () if is_before else now:
                one(run / "model_0.pt", rng)

        monkeypatch.setattr(cloning, "clone_range", clone)
        with CheckpointDirectory(run, share_unchanged=True) as saves:
            saves.save(states[0], 0)
            saves.save(states[1], 1)
            pending.append(meddle)
            saves.save(states[2], 2)
        assert not pending
        try:
            assert torch.equal(load(run / "model_2.pt")["frozen"], states[2]["frozen"])
            ends[f"from save {origins(run / 'model_2.pt')['data/0']}"] += 1
        except CorruptCheckpointError:
            ends["found corrupt"] += 1
            assert meddle is unseen
            assert is_before
        assert verify(run / "model_1.pt").status is Status.INTACT
        shutil.rmtree(run)
