"""What is left of folders that are saved as a whole if the power goes at any moment."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator

import pytest

from marlin_ckpt.directory.transaction import Transaction
from marlin_ckpt.naming import MANIFEST
from marlin_ckpt.storage.local import staging
from tests.support.folder_checkpoints import about
from tests.support.power_loss import Call, Disk, Sync, Tree
from tests.support.recorded_calls import Recorder

NAMES = ["checkpoint-1", "checkpoint-1", "checkpoint-2", "checkpoint-1"]


def content(number: int) -> dict[str, bytes]:
    return {"model.safetensors": bytes([number + 1]) * 1500, "rank/0/rng.pth": bytes([number + 1])}


@pytest.fixture(params=["exchange", "renames"])
def recorded(request, tmp_path, monkeypatch, cases) -> tuple[list[Call], list[int]]:
    """The calls of some saves, and after how many each was reported."""
    root = tmp_path / "disk"
    root.mkdir()
    done = []
    with monkeypatch.context() as patch:
        recorder = Recorder(str(root), patch)
        if request.param == "renames":
            patch.setattr(staging, "exchange", refuse)
        for number, name in enumerate(NAMES[: cases(2, 4)]):
            with Transaction(root, name, manifest=about()) as folder:
                fill(folder, content(number))
            done.append(len(recorder.trace))
    disk = Disk()
    for call in recorder.trace:
        disk.do(call)
    there = {str(path.relative_to(root)): path for path in root.rglob("*")}
    assert {path: one and one.data for path, one in disk.whole().items()} == {
        name: path.read_bytes() if path.is_file() else None for name, path in there.items()
    }
    assert ("exchange" in recorder.names) == (request.param == "exchange")
    return recorder.trace, done


def fill(folder: str, files: dict[str, bytes]) -> None:
    """Writes files by calls that can be recorded."""
    for name, data in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(fd, data)
        os.close(fd)


def refuse(*_):
    raise OSError(22, "Invalid argument")


def found(tree: Tree, name: str) -> int | str:
    """The number of the save that has a name in a tree, -1 for none; or what is wrong with it."""
    if name not in tree:
        return -1
    within = {path: one.data for path, one in tree.items() if one and path.startswith(f"{name}/")}
    files = {path[len(name) + 1 :]: data for path, data in within.items()}
    if MANIFEST not in files:
        return f"no manifest beside {sorted(files)}"
    try:
        listed = json.loads(files.pop(MANIFEST))["records"]
    except ValueError:
        return "a torn manifest"
    crcs = {path: zlib.crc32(data) for path, data in files.items()}
    if {one["name"]: one["crc32"] for one in listed} != crcs:
        return f"another content than its manifest lists: {sorted(files)}"
    return files["rank/0/rng.pth"][0] - 1


def faults(trace: list[Call], done: list[int], first: int = 0, last: int | None = None) -> Iterator[str]:
    """What is wrong in the states that a power loss after one of the calls can leave."""
    disk = Disk()
    for at, call in enumerate(trace, 1):
        disk.do(call)
        if not first <= at <= (last or len(trace)):
            continue
        reported = {NAMES[number]: number for number, end in enumerate(done) if end <= at}
        for tree in disk.systematic():
            for name in dict.fromkeys(NAMES):
                least = reported.get(name, -1)
                there = found(tree, name)
                if there == -1 and least >= 0:
                    there = found(tree, f".{name}.marlin-old")  # which the next start gives its name back
                if isinstance(there, str) or there < least:
                    yield f"after call {at}, {call}: {name}: {there}, and not save {least} or later"


def test_a_power_loss_at_any_moment_leaves_each_folder_that_was_reported_or_a_later_one_whole(recorded):
    assert list(faults(*recorded))[:5] == []


def test_without_any_one_of_the_fsyncs_of_what_it_publishes_a_folder_could_be_lost_or_torn(recorded):
    trace, done = recorded
    needed = 0
    for number in [number for number, call in enumerate(trace[: done[0]]) if isinstance(call, Sync)]:
        without = trace[:number] + trace[number + 1 :]
        needed += any(faults(without, [at - (at > number) for at in done], last=done[0] - 1))
    assert needed >= 7  # two files, the manifest, and the folders that they and the name are in
