"""Removing files while the tree is odd, changes under the hand, or is being turned against us."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments, StorageError
from marlin_ckpt.directory import removing, trash
from marlin_ckpt.storage.local import publishing, store


def clean(directory, **options) -> removing.Outcome:
    return removing.carry_out(removing.plan_cleaning(directory, **options))


def delete_existing(directory) -> None:
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=directory, delete_existing_checkpoints=True))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory with a file that would fit, which nothing may remove."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "model_1.pt").write_bytes(b"precious")
    return tmp_path / "outside"


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The directory to clean."""
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


def link_in_place_of(directory: Path, target: Path) -> None:
    directory.rename(directory.with_name("aside"))
    directory.symlink_to(target)


@pytest.mark.parametrize("swapped", [".", "sub", "sub/deeper"])
def test_a_directory_swapped_for_a_link_after_the_decision_leads_no_removal_outside(inside, outside, swapped):
    (inside / "sub" / "deeper").mkdir(parents=True)
    (outside / "deeper").mkdir()
    (outside / "sub" / "deeper").mkdir(parents=True)
    for below in (".", "sub", "sub/deeper", "deeper"):
        (outside / below / "model_1.pt").write_bytes(b"precious")
        if below != "deeper":
            (inside / below / "model_1.pt").write_bytes(b"to go")
    plan = removing.plan_cleaning(inside, recursive=True)
    assert len(plan.removals) == 3
    link_in_place_of(inside / swapped, outside / swapped)
    outcome = removing.carry_out(plan)
    assert [path.read_bytes() for path in outside.rglob("*.pt")] == [b"precious"] * 4
    kept = {".": 3, "sub": 2, "sub/deeper": 1}[swapped]
    assert len(outcome.failures) == kept
    assert len(outcome.removed) == 3 - kept


def test_another_directory_in_the_place_of_the_one_that_was_read_is_left_and_told(inside, outside):
    (inside / "model_1.pt").write_bytes(b"to go")
    plan = removing.plan_cleaning(inside)
    inside.rename(inside.with_name("aside"))
    outside.rename(inside)
    outcome = removing.carry_out(plan)
    assert (inside / "model_1.pt").read_bytes() == b"precious"
    assert outcome.removed == ()
    assert [failure.path for failure in outcome.failures] == [str(inside / "model_1.pt")]


def replace_by_rename(path: Path) -> None:
    path.with_name("new").write_bytes(b"newer")
    path.with_name("new").rename(path)


def replace_after_unlink(path: Path) -> None:
    # ext4 gives the number of an inode just freed to the next file.
    path.unlink()
    path.write_bytes(b"newer")


def replace_by_link(path: Path) -> None:
    path.with_name("target").write_bytes(b"newer")
    path.unlink()
    path.symlink_to(path.with_name("target"))


@pytest.mark.parametrize("replace", [replace_by_rename, replace_after_unlink, replace_by_link])
def test_a_file_replaced_after_the_decision_stays_and_is_told(inside, replace):
    path = inside / "model_1.pt"
    path.write_bytes(b"older")
    (inside / "model_2.pt").write_bytes(b"to go")
    plan = removing.plan_cleaning(inside)
    replace(path)
    outcome = removing.carry_out(plan)
    assert path.read_bytes() == b"newer"
    assert [failure.path for failure in outcome.failures] == [str(path)]
    assert not (inside / "model_2.pt").exists()


def test_a_file_saved_anew_while_the_older_one_goes_to_the_trash_stays(inside, monkeypatch):
    path = inside / "model_1.pt"
    path.write_bytes(b"older")
    plan = removing.plan_cleaning(inside)
    sync = store.sync_open_directory

    def save_meanwhile(fd):
        sync(fd)
        replace_by_rename(path)

    monkeypatch.setattr(store, "sync_open_directory", save_meanwhile)
    outcome = trash.fill(plan)
    assert [failure.path for failure in outcome.failures] == [str(path)]
    assert path.read_bytes() == b"newer"
    assert (inside / ".trash/000001/model_1.pt").read_bytes() == b"older"


def test_a_file_that_vanished_after_the_decision_is_neither_removed_nor_a_failure(inside):
    for index in (1, 2):
        (inside / f"model_{index}.pt").write_bytes(b"to go")
    (inside / "sub").mkdir()
    (inside / "sub" / "model_3.pt").write_bytes(b"to go")
    plan = removing.plan_cleaning(inside, recursive=True)
    (inside / "model_1.pt").unlink()
    shutil.rmtree(inside / "sub")
    outcome = removing.carry_out(plan)
    assert [removal.path for removal in outcome.removed] == [str(inside / "model_2.pt")]
    assert outcome.failures == ()
    assert os.listdir(inside) == []


# Swaps a directory for a link to another and back until its stdin ends.
SWAPPER = """
import os, random, select, sys
chance = random.Random(1)
directory, aside, outside = sys.argv[1:]
print("swapping", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    os.rename(directory, aside)
    os.symlink(outside, directory)
    os.unlink(directory)
    os.rename(aside, directory)
    for _ in range(chance.randrange(20_000)):  # else a cleaning would hardly ever find it in place
        pass
"""


@pytest.fixture
def swapper(inside: Path, outside: Path):
    """Starts a process that goes on swapping a directory for a link to `outside`; gives its descriptor."""
    running, opened = [], []

    def start(directory: Path) -> int:
        opened.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
        command = [sys.executable, "-c", SWAPPER, str(directory), str(inside.parent / "aside"), str(outside)]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert running[-1].stdout.readline() == b"swapping\n"
        return opened[-1]

    yield start
    for process in running:
        process.communicate(timeout=60)
        assert process.returncode == 0
    for fd in opened:
        os.close(fd)


def rounds_of_cleaning(fd: int, inside: Path, outside: Path, remove, rounds: int) -> Iterator[bool]:
    """Puts a file into an open directory, wherever that is just now, and cleans; tells whether the file went.

    Ends early when a file outside is gone.
    """
    for _ in range(rounds):
        os.close(os.open("model_1.pt", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        remove(inside)
        if not (outside / "model_1.pt").exists():
            return
        yield "model_1.pt" not in os.listdir(fd)


def by_path(directory: Path) -> None:
    """The cleaning that we must not do: it looks, then removes by path."""
    for parent in (directory, directory / "sub"):
        path = parent / "model_1.pt"
        if not parent.is_symlink() and path.exists():
            for _ in range(10_000):  # holds the window open until the process that swaps has its turn
                if parent.is_symlink():
                    break
                os.sched_yield()
            path.unlink(missing_ok=True)


def by_plan(directory: Path) -> None:
    with contextlib.suppress(OSError):  # the directory was away, or a link, when it was opened
        clean(directory, recursive=True)


@pytest.mark.parametrize(("remove", "swapped"), [(by_plan, "."), (by_plan, "sub"), (delete_existing, ".")])
def test_a_directory_that_goes_on_being_swapped_for_a_link_leads_no_removal_outside(
    inside, outside, swapper, remove, swapped
):
    (inside / "sub").mkdir()
    went = list(rounds_of_cleaning(swapper(inside / swapped), inside, outside, remove, 4000))
    assert len(went) == 4000
    assert set(went) == {True, False}
    assert (outside / "model_1.pt").read_bytes() == b"precious"


def test_the_same_swapping_leads_a_removal_by_path_outside(inside, outside, swapper):
    # Shows that the race is a real one.
    (inside / "sub").mkdir()
    went = list(rounds_of_cleaning(swapper(inside / "sub"), inside, outside, by_path, 50_000))
    assert len(went) < 50_000
    assert not (outside / "model_1.pt").exists()


def test_cleaning_removes_every_name_of_one_file(tmp_path):
    (tmp_path / "model_1.pt").write_bytes(b"data")
    os.link(tmp_path / "model_1.pt", tmp_path / "best.pt")
    outcome = removing.carry_out(removing.plan_cleaning(tmp_path))
    assert outcome.failures == ()
    assert os.listdir(tmp_path) == []


def test_the_old_file_that_a_live_save_keeps_aside_is_not_taken_for_a_dead_runs(tmp_path, monkeypatch):
    path = tmp_path / "model_1.pt"
    publishing.publish(path, lambda target: target.put(b"old"), 3)
    sync = os.fsync

    def cleaning(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            removing.carry_out(removing.plan_sweeping(tmp_path))
            raise OSError(errno.EIO, "injected")
        sync(fd)

    monkeypatch.setattr(publishing.os, "fsync", cleaning)
    with pytest.raises(StorageError, match="injected"):
        publishing.publish(path, lambda target: target.put(b"new"), 3)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model_1.pt"]
