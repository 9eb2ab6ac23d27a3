"""What is left of files that go into the trash, and come back, if the power goes at any moment."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest

from marlin_ckpt.cli.main import main
from marlin_ckpt.storage.local.publishing import make_directory, publish
from marlin_ckpt.storage.target import Target
from tests.support.power_loss import Call, Disk, Sync, Tree
from tests.support.recorded_calls import Recorder

NAMES = ("model_1.pt", "sub/model_2.pt")
CLEAN = ("--recursive", "--to-trash", "--yes")


def fill(name: str, target: Target) -> None:
    target.put(name.encode())


@pytest.fixture
def recorded(tmp_path, monkeypatch, capsys) -> tuple[list[Call], dict[str, int]]:
    """The calls of two saves, a removal into the trash and its undoing; and after how many each was done."""
    root = tmp_path / "disk"
    root.mkdir()
    monkeypatch.chdir("/")
    with monkeypatch.context() as patch:
        recorder = Recorder(str(root), patch)
        make_directory(root / "sub")
        for name in NAMES:
            publish(root / name, functools.partial(fill, name), 10)
        done = {"saved": len(recorder.trace)}
        assert main(["clean", str(root), *CLEAN]) == 0
        done["moved"] = len(recorder.trace)
        assert sorted(os.listdir(root)) in ([".trash", "sub"], [".marlin-ckpt", ".trash", "sub"])
        os.rmdir(root / "sub")  # so that it is made anew
        assert main(["clean", str(root), "--undo"]) == 0
        done["brought back"] = len(recorder.trace)
    capsys.readouterr()
    assert all((root / name).read_bytes() == name.encode() for name in NAMES)
    return recorder.trace, done


def holds(tree: Tree, path: str, name: str) -> bool:
    there = tree.get(path)
    return there is not None and there.data == name.encode()


def lost(trace: list[Call], done: dict[str, int]) -> Iterator[str]:
    """What is missing in the states that a power loss after one of the calls can leave."""
    disk = Disk()
    for number, call in enumerate(trace, 1):
        disk.do(call)
        if number < done["saved"]:
            continue
        for tree in disk.systematic():
            for name in NAMES:
                trashed = [path for path in tree if path.startswith(".trash/") and path.endswith(f"/{name}")]
                places = {
                    "in its place": holds(tree, name, name),
                    "in the trash": any(holds(tree, path, name) for path in trashed),
                }
                if not any(places.values()):
                    yield f"{name} is lost after call {number}, {call}"
                if number == done["moved"] and not places["in the trash"]:
                    yield f"{name} was moved and is not in the trash"
                if number == done["moved"] and places["in its place"]:
                    yield f"{name} was moved and is in its place again"
                if number == done["brought back"] and not places["in its place"]:
                    yield f"{name} was brought back and is not in its place"


def test_a_power_loss_at_any_moment_of_moving_to_the_trash_and_back_loses_no_file(recorded):
    assert list(lost(*recorded)) == []


def test_without_the_fsyncs_of_folders_a_file_could_be_lost_on_either_way(recorded):
    # Shows that the states and their checks can fail.
    trace, done = recorded
    for first, last in ((done["saved"], done["moved"]), (done["moved"], done["brought back"])):
        kept = [one for at, one in enumerate(trace) if not (first <= at < last and isinstance(one, Sync))]
        assert any(
            " is lost" in one for one in lost(kept, {"saved": done["saved"], "moved": 0, "brought back": 0})
        )
