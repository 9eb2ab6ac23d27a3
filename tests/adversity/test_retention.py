"""Retention under kills and failing calls: the newest intact checkpoint is there at every instant."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from marlin_ckpt import RetentionArguments
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import removing
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.directory.newest import newest_intact
from marlin_ckpt.directory.retention.decide import Candidate, decide
from marlin_ckpt.directory.retention.plan import Keeping
from marlin_ckpt.formats import verification
from tests.support import warm
from tests.support.folders import visible
from tests.support.keeping_loop import loss, rules


def start(directory: Path, repository: Path, saves: int, how: str) -> subprocess.Popen[str]:
    loop = repository / "tests" / "support" / "keeping_loop.py"
    command = [sys.executable, str(loop), str(directory), str(saves), how]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    return warm.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def named(indices) -> list[str]:
    """What the pure function keeps of so many checkpoints."""
    files = [
        Candidate(
            path=f"model_{index}.pt",
            index=index,
            time_s=float(index),
            size_bytes=1,
            metrics={"loss": loss(index)},
        )
        for index in indices
    ]
    return sorted(one.candidate.path for one in decide(files, rules(), now_s=1e9) if one.keep)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_run_killed_every_few_saves_ends_with_what_the_pure_function_names(
    directory, repository, cases, how
):
    kills, saves, draws = cases(2, 40), cases(60, 200), random.Random(3)
    folder = Path(directory) / "run"
    for _ in range(kills):
        run = start(folder, repository, saves, how)
        left, reported = draws.randint(1, max(2, saves // kills - 2)), -1
        for line in run.stdout:
            if line.startswith("saved"):
                reported, left = int(line.split()[1]), left - 1
            if left < 0:
                run.send_signal(signal.SIGKILL)
                break
        with run:
            reported = max([reported, *(int(line.split()[1]) for line in run.stdout if "saved" in line)])
        assert run.returncode in (0, -signal.SIGKILL)
        newest = newest_intact(lambda: newest_first(folder, "model"))
        assert int(Path(newest.path).stem.split("_")[1]) >= reported
    with start(folder, repository, saves + 3, how) as last:  # of which the killed ones made none
        assert f"saved {saves + 1}" in last.stdout.read()
    assert last.returncode == 0
    assert visible(folder) == named(range(saves + 3))


class Ended(BaseException):
    """Ends a process in the middle of what it does."""


class Faulty:
    """Makes system calls, the one of a number not."""

    NAMES = (
        "open",
        "stat",
        "listdir",
        "scandir",
        "unlink",
        "rename",
        "link",
        "mkdir",
        "rmdir",
        "fsync",
        "pread",
    )

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
        self.count, self.number, self.error = 0, number, error
        for name in self.NAMES:
            monkeypatch.setattr(os, name, functools.partial(self._call, getattr(os, name)))

    def _call(self, real, *args, **options):
        self.count += 1
        if self.count == self.number:
            raise self.error
        return real(*args, **options)


@pytest.fixture
def original(make_checkpointer, make_checkpoint, tmp_path) -> Path:
    """Five checkpoints, the newest of which is damaged."""
    checkpointer = make_checkpointer()
    for index in range(5):
        checkpointer.save(make_checkpoint(float(index)), index)
    path = tmp_path / "checkpoints" / "model_4.pt"
    data = bytearray(path.read_bytes())
    data[data.index(b"archive/data/0") + 200] ^= 1
    path.write_bytes(data)
    return tmp_path / "checkpoints"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.pt")}


def in_place(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pt"))


ERRORS = [Ended(), OSError(5, "Input/output error")]


@pytest.mark.parametrize("error", ERRORS, ids=["killed", "EIO"])
@pytest.mark.parametrize("options", [(), ("--to-trash",)], ids=["unlink", "trash"])
def test_clean_interrupted_at_any_call_leaves_the_newest_intact_file(
    original, tmp_path, monkeypatch, capsys, cases, error, options
):
    before = contents(original)
    command = ["clean", "", "--keep-last", "1", "--yes", *options]
    number, is_struck = cases(2, 0) * ERRORS.index(error), True  # each error strikes other calls of a sample
    while is_struck:
        number += cases(5, 1)
        folder = tmp_path / f"copy{number}"
        shutil.copytree(original, folder)
        command[1] = str(folder)
        with monkeypatch.context() as patch:
            faulty = Faulty(patch, number, error)
            try:
                main(command)
            except Ended:
                assert isinstance(error, Ended)
        is_struck = faulty.count >= number
        assert (folder / "model_3.pt").read_bytes() == before["model_3.pt"], number
        assert (folder / "model_4.pt").exists(), number
        if options:
            assert contents(folder) == before, "every file is in its place or in the trash"
        main(command)
        assert in_place(folder) == ["model_3.pt", "model_4.pt"], number
        if options:
            while main(["clean", str(folder), "--undo"]) == 0:
                continue
            assert contents(folder) == before
            assert in_place(folder) == sorted(before)
        shutil.rmtree(folder)
    assert number > 20
    capsys.readouterr()


@pytest.mark.parametrize("error", ERRORS, ids=["killed", "EIO"])
def test_an_undo_interrupted_at_any_call_loses_nothing(original, tmp_path, monkeypatch, capsys, cases, error):
    before = contents(original)
    number, is_struck = cases(2, 0) * ERRORS.index(error), True  # each error strikes other calls of a sample
    while is_struck:
        number += cases(5, 1)
        folder = tmp_path / f"copy{number}"
        shutil.copytree(original, folder)
        main(["clean", str(folder), "--to-trash", "--yes"])
        with monkeypatch.context() as patch:
            faulty = Faulty(patch, number, error)
            try:
                main(["clean", str(folder), "--undo"])
            except Ended:
                assert isinstance(error, Ended)
        is_struck = faulty.count >= number
        assert contents(folder) == before, number
        main(["clean", str(folder), "--undo"])
        assert in_place(folder) == sorted(before), number
        shutil.rmtree(folder)
    assert number > 20
    capsys.readouterr()


def test_files_that_vanish_or_appear_while_it_decides_change_nothing_for_the_others(original, monkeypatch):
    real = verification.verify

    def verify(one):
        (original / "model_0.pt").unlink(missing_ok=True)
        shutil.copy(original / "model_3.pt", original / "model_9.pt")
        return real(one)

    monkeypatch.setattr(verification, "verify", verify)
    plan = Keeping().plan(str(original), RetentionArguments(last=1), now_s=2e9)
    done = removing.carry_out(plan.removal)
    assert [os.path.basename(one.path) for one in done.removed] == ["model_1.pt", "model_2.pt"]
    assert visible(original) == ["model_3.pt", "model_4.pt", "model_9.pt"]


def test_a_newest_file_that_vanishes_before_it_is_verified_takes_no_other_with_it(original, monkeypatch):
    real = verification.verify

    def verify(one):
        if one.path.endswith("model_4.pt"):
            os.unlink(one.path)
        return real(one)

    monkeypatch.setattr(verification, "verify", verify)
    plan = Keeping().plan(str(original), RetentionArguments(last=1), now_s=2e9)
    assert [os.path.basename(one.path) for one in plan.removal.removals] == [
        f"model_{index}.pt" for index in range(3)
    ]
