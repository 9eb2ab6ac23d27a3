"""What is left of a sequence of saves if the power goes at any moment."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from marlin_ckpt import Checkpoint
from marlin_ckpt.cli.main import main
from marlin_ckpt.storage.local.publishing import publish
from marlin_ckpt.storage.local.temporary import is_temporary
from tests.support.power_findings import Finder, Found, Promises, faults, is_temporary_path
from tests.support.power_loss import ROOT, SECTOR_BYTES, Call, Disk, Enter, Mark, Resize, Sync, Tree, Write
from tests.support.recorded_calls import Recorder
from tests.support.recorded_saves import (
    CHECKPOINTS,
    MODELS,
    SAVES,
    checkpointer_for,
    record,
    save_plainly,
    save_with_marlin,
)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory) -> Recorder:
    """The calls of all saves, made with marlin-ckpt."""
    return record(tmp_path_factory.mktemp("recorded") / "disk", save_with_marlin)


@dataclass(frozen=True)
class Campaign:
    finder: Finder
    faults: list[str]
    states: int


@pytest.fixture(scope="module")
def campaign(recorder, tmp_path_factory, cases) -> Campaign:
    """A look at the states after every call."""
    finder = Finder(tmp_path_factory.mktemp("campaign") / "disk")
    # Without an end every state of a broken protocol would be told of.
    found = list(itertools.islice(faults(recorder.trace, finder, samples=cases(1, 400)), 20))
    return Campaign(finder, found, len(finder.seen))


@pytest.fixture
def finder(tmp_path) -> Finder:
    return Finder(tmp_path / "found")


def test_a_power_loss_at_any_moment_leaves_all_that_was_reported_saved_and_latest_names_it_or_a_newer_one(
    campaign, cases
):
    assert campaign.faults == []
    # How many differ hangs on which of the writing threads comes first: mostly a little more than 3,000.
    assert campaign.states >= cases(2_500, 10_000)


def test_without_any_one_of_its_fsyncs_a_save_that_was_reported_could_be_lost(recorder, finder):
    trace = recorder.trace
    syncs = [number for number, call in enumerate(trace) if isinstance(call, Sync)]
    new_directories = ["runs", "runs/first", CHECKPOINTS, MODELS]
    # Each file, then the directory that it lies in; and the directory that holds each new one.
    assert len(syncs) == 2 * len(SAVES) + len(new_directories)
    unnoticed = []
    for number in syncs:
        report = next(at for at in range(number, len(trace)) if is_report(trace[at]))
        without = trace[:number] + trace[number + 1 :]
        if not any(faults(without, finder, first=report - 1, last=report - 1)):
            unnoticed.append((number, trace[number]))
    assert unnoticed == []


def is_report(call: Call) -> bool:
    return isinstance(call, Mark) and call.is_reported


@pytest.mark.parametrize("sync", [False, True], ids=["as it is", "with an fsync of the file"])
def test_the_same_power_losses_tear_and_lose_the_files_of_a_plain_torch_save(tmp_path, finder, sync):
    # Shows that the states and their checks can fail.
    plainly = record(tmp_path / "disk", save_plainly(sync=sync))
    for harm in ("holds corrupt: ", "holds None instead of ", "the latest is "):
        assert any(harm in fault for fault in faults(plainly.trace, finder))
    disk, promises = Disk(), Promises()
    for call in plainly.trace:
        disk.do(call)
        promises.note(call)
    assert list(promises.broken_by(finder.look(disk.whole()))) == []


def distinct_directories(trace: list[Call], finder: Finder) -> Iterator[tuple[Tree, Found]]:
    """A state for each set of names, and of saves under the final ones, that there can be."""
    disk, seen = Disk(), set()
    for call in trace:
        disk.do(call)
        for tree in disk.systematic():
            found = finder.look(tree)
            if (key := (frozenset(tree), frozenset(found.saves.items()))) not in seen:
                seen.add(key)
                yield tree, found


def test_after_a_power_loss_the_command_and_the_next_run_find_the_newest_intact_checkpoint(
    recorder, campaign, capsys
):
    tried, finder = set(), campaign.finder
    for tree, found in distinct_directories(recorder.trace, finder):
        if (visible := (CHECKPOINTS in tree, frozenset(found.saves.items()))) in tried:
            continue
        tried.add(visible)
        finder.put(tree)
        code = main(["latest", os.path.join(finder.root, CHECKPOINTS), "--intact"])
        assert (code, capsys.readouterr().out) == ((0, f"{found.latest}\n") if found.latest else (4, ""))
        loaded = checkpointer_for(finder.root).load().module_interface_state
        newest = found.saves[os.path.relpath(found.latest, finder.root)] if found.latest else None
        assert (loaded["save"] if loaded else None) == newest
    assert len(tried) > len(SAVES)


def test_what_a_power_loss_leaves_half_written_the_next_run_removes(recorder, campaign, tmp_path, cases):
    littered = 0
    for number, (tree, _) in enumerate(distinct_directories(recorder.trace, campaign.finder)):
        if number % cases(7, 1) == 0 and any(is_temporary_path(path) for path in tree):
            littered += 1
            after = Finder(tmp_path / str(number))
            after.put(tree)
            checkpointer = checkpointer_for(after.root)
            checkpointer.save(Checkpoint({}, {}, {}), 9)
            checkpointer.save_model({}, 9)
            left = [name for _, _, names in os.walk(after.root) for name in names]
            assert [name for name in left if is_temporary(name)] == []
            assert {"model_9.pt", "model_model_9.pt"} <= set(left)
    assert littered >= cases(10, 50)


def test_the_record_tells_of_every_change_that_the_saves_made_by_every_way_of_writing(recorder):
    disk = Disk()
    for call in recorder.trace:
        disk.do(call)
    root = Path(recorder.root)
    there = {str(path.relative_to(root)): path for path in root.rglob("*")}
    recorded = {path: content and content.data for path, content in disk.whole().items()}
    assert recorded == {name: path.read_bytes() if path.is_file() else None for name, path in there.items()}
    ways = {"write", "pwrite", "allocate", "ftruncate", "fsync", "rename", "link", "unlink"}
    assert recorder.names == ways


def states_after(*calls: Call) -> list[Tree]:
    disk = Disk()
    for call in calls:
        disk.do(call)
    return list(disk.systematic())


def test_of_a_file_without_fsync_any_sector_can_be_missing_and_its_length_can_be_there_before_its_bytes():
    first, second, zeros = b"1" * SECTOR_BYTES, b"2" * SECTOR_BYTES, bytes(SECTOR_BYTES)
    calls = [Resize(1, 0), Enter(ROOT, (("file", 1),)), Write(1, 0, first + second)]
    left = {tree["file"].data if "file" in tree else None for tree in states_after(*calls)}
    torn = {first, first + zeros, zeros + second, zeros + zeros, b""}
    assert left == {None, first + second} | torn
    synced = {tree["file"].data if "file" in tree else None for tree in states_after(*calls, Sync(1, "file"))}
    assert synced == {None, first + second}


def test_of_a_rename_without_fsync_of_the_directory_the_old_name_the_new_one_or_both_can_be_there():
    made = [Resize(1, 0), Enter(ROOT, (("old", 1),)), Sync(1, "old"), Sync(ROOT, ".")]
    renamed = [*made, Enter(ROOT, (("new", 1), ("old", None)))]
    assert {frozenset(tree) for tree in states_after(*renamed)} == {
        frozenset({"old"}),
        frozenset({"new"}),
        frozenset({"old", "new"}),
    }
    assert {frozenset(tree) for tree in states_after(*renamed, Sync(ROOT, "."))} == {frozenset({"new"})}


def test_the_temporary_file_lies_in_the_directory_of_its_target(tmp_path):
    target = tmp_path / "a" / "model_1.pt"
    target.parent.mkdir()
    seen = []
    publish(target, lambda _: seen.extend(os.listdir(target.parent)), 0)
    assert [is_temporary(name) for name in seen] == [True]
    assert os.listdir(target.parent) == ["model_1.pt"]
