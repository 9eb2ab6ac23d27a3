"""What `CheckpointDirectory.load` takes, what it passes over, and how the run goes on from it."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import numpy
import pytest
import torch

from marlin_ckpt import (
    ArgumentsError,
    BestArguments,
    CheckpointDirectory,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    LoadReport,
    MarlinError,
    NotACheckpointError,
    Parent,
    RetentionArguments,
    StateMismatchError,
    StorageError,
    UnsafeCheckpointError,
)
from tests.support.async_runs import Run, same
from tests.support.checkpoint_directories import (
    fill_folder,
    filled,
    flip,
    manifest_of,
    state,
    truncate,
)

LOSSES = {1: 0.5, 2: 0.1, 3: 0.1, 4: 0.9}


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, 4),
        ({"which": "latest"}, 4),
        ({"which": 1}, 1),
        ({"which": numpy.int64(2)}, 2),
        ({"which": "best", "metric": "loss"}, 3),
        ({"which": "best", "metric": "loss", "mode": "max"}, 4),
    ],
)
def test_latest_best_or_an_index_is_loaded(tmp_path, asked, index):
    assert same(filled(tmp_path, LOSSES).load(**asked), state(index))


def test_the_rule_best_of_keep_says_what_is_best_unless_the_call_does(tmp_path):
    filled(tmp_path, LOSSES)
    here = CheckpointDirectory(tmp_path, keep=RetentionArguments(best=BestArguments("loss", "max")))
    assert here.load("best")["step"] == 4
    assert here.load("best", mode="min")["step"] == 3
    assert here.load("best", metric="loss")["step"] == 3
    two = RetentionArguments(best=[BestArguments("loss"), BestArguments("accuracy", "max")])
    for keep in (None, 3, two):
        with pytest.raises(ArgumentsError, match="metric: is missing"):
            CheckpointDirectory(tmp_path, keep=keep).load("best")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"which": "newest"}, "which"),
        ({"which": None}, "which"),
        ({"which": 1.0}, "which"),
        ({"which": PurePosixPath("model_1.pt")}, "which"),
        ({"which": -1}, "index"),
        ({"metric": "loss"}, "metric"),
        ({"which": 3, "mode": "max"}, "metric"),
        ({"which": "best"}, "metric"),
        ({"which": "best", "metric": "loss", "mode": "lowest"}, "mode"),
        ({"strict": False}, "strict"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_anything_is_loaded(tmp_path, asked, field):
    here = filled(tmp_path, LOSSES)
    with pytest.raises(ArgumentsError) as caught:
        here.load(**asked)
    assert [fault.field for fault in caught.value.faults] == [field]


def test_into_fills_live_objects_and_the_other_options_are_those_of_load(tmp_path):
    run, here = Run(), CheckpointDirectory(tmp_path)
    run.step()
    live = {"model": run.module, "optimizer": run.optimizer, "epoch": 3}
    here.save(live, 1, metrics={"loss": 1})
    saved = here.load()
    assert same(
        saved, {"model": run.module.state_dict(), "optimizer": run.optimizer.state_dict(), "epoch": 3}
    )
    run.step()
    assert not same(run.module.state_dict(), saved["model"])
    for asked in ({}, {"which": 1}, {"which": "best", "metric": "loss"}):
        fresh = Run()
        loaded = here.load(**asked, into={"model": fresh.module, "optimizer": fresh.optimizer})
        assert loaded["model"] is fresh.module
        assert loaded["epoch"] == 3
        assert same(fresh.module.state_dict(), saved["model"])
        assert same(fresh.optimizer.state_dict(), saved["optimizer"])
    wider = torch.nn.Linear(8, 17)
    with pytest.raises(StateMismatchError):
        here.load(into={"model": wider})
    report = here.load(into={"model": wider}, strict=False)
    assert isinstance(report, LoadReport)
    assert not report.is_complete
    here.save({"module.weight": torch.ones(2), "path": PurePosixPath("x")}, 2)
    with pytest.raises(UnsafeCheckpointError):
        here.load()
    found = here.load(weights_only=False, strip_prefix="module.", map_location="meta")
    assert found["weight"].device.type == "meta"
    assert found["path"] == PurePosixPath("x")


@pytest.mark.parametrize("which", ["latest", "best"])
@pytest.mark.parametrize("damage", [flip, truncate])
def test_what_is_damaged_is_passed_over_and_the_log_says_why(tmp_path, caplog, which, damage):
    here = filled(tmp_path, {1: 3.0, 2: 2.0, 3: 1.0})
    damage(tmp_path / "model_3.pt")
    found = here.load(which, metric="loss" if which == "best" else None)
    assert same(found, state(2))
    (text,) = [one.getMessage() for one in caplog.records]
    assert text.startswith("Passed over: ")
    assert str(tmp_path / "model_3.pt") in text


@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize("which", ["latest", "best"])
def test_where_all_are_damaged_the_error_is_that_of_the_first(tmp_path, which, run):
    run_id = filled(tmp_path, {1: 3.0, 2: 2.0, 3: 1.0}).run_id
    truncate(tmp_path / "model_3.pt")
    truncate(tmp_path / "model_2.pt")
    flip(tmp_path / "model_1.pt")
    here = CheckpointDirectory(tmp_path, run=run_id if run else None)
    with pytest.raises(CorruptCheckpointError, match=r"truncated.*model_3\.pt") as caught:
        here.load(which, metric="loss" if which == "best" else None)
    assert "none of 3 checkpoints" in caught.value.hint or "salvage" in caught.value.hint


def test_by_its_index_a_damaged_one_is_an_error_and_no_other_is_loaded(tmp_path):
    here = filled(tmp_path, LOSSES)
    flip(tmp_path / "model_3.pt")
    (tmp_path / "model_4.pt").write_text("<html>")
    with pytest.raises(CorruptCheckpointError, match=r"model_3\.pt"):
        here.load(3)
    with pytest.raises(NotACheckpointError, match=r"model_4\.pt"):
        here.load(4)


def test_what_is_not_there_is_an_error_that_says_what_is(tmp_path):
    here = CheckpointDirectory(tmp_path / "new", prefix="epoch")
    for which in ("latest", "best", 3):
        with pytest.raises(CheckpointNotFoundError, match="new") as caught:
            here.load(which, metric="loss" if which == "best" else None)
        assert "prefix epoch" in f"{caught.value} {caught.value.hint}"
    filled(here.path, {1: 0.1, 2: None}, prefix="epoch")
    with pytest.raises(CheckpointNotFoundError, match="no checkpoint of index 3") as caught:
        here.load(3)
    assert caught.value.hint == "there are 2, 1"
    filled(here.path, {10: None, 11: None}, prefix="epoch")
    with pytest.raises(CheckpointNotFoundError) as caught:
        here.load(3)
    assert caught.value.hint == "there are 11, 10, 2, ..."
    with pytest.raises(
        CheckpointNotFoundError, match="prefix epoch has a finite value of accuracy"
    ) as caught:
        here.load("best", metric="accuracy")
    assert caught.value.hint == "they have loss"


def test_the_newest_that_is_a_folder_is_an_error_that_names_one_of_its_files_and_no_older_is_loaded(tmp_path):
    here = filled(tmp_path, {1: None})
    with here.transaction("model_2") as folder:
        torch.save(state(2), os.path.join(folder, "weights.pt"))
    for which in ("latest", 2):
        with pytest.raises(MarlinError, match="is a folder of files") as caught:
            here.load(which)
        assert f"{tmp_path}/model_2/weights.pt" in caught.value.hint
    assert same(torch.load(os.path.join(here.latest().path, "weights.pt")), state(2))


def test_an_error_that_is_not_of_the_file_ends_the_search(tmp_path, monkeypatch):
    here, real = filled(tmp_path, LOSSES), os.open

    def refuse(path, *args, **options):
        if str(path).endswith("model_4.pt"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    for which in ("latest", "best"):
        with pytest.raises(StorageError, match="Permission denied"):
            here.load(which, metric="loss" if which == "best" else None)


def test_with_run_only_that_runs_checkpoints_are_loaded(tmp_path):
    one = filled(tmp_path, {1: 0.5, 4: 0.1})
    two = filled(tmp_path, {2: 0.6, 3: 0.7})
    assert CheckpointDirectory(tmp_path).load()["step"] == 4
    here = CheckpointDirectory(tmp_path, run=two.run_id)
    assert here.load()["step"] == 3
    assert here.load("best", metric="loss")["step"] == 2
    with pytest.raises(CheckpointNotFoundError, match="no checkpoint of index 4") as caught:
        here.load(4)
    assert caught.value.hint == "there are 3, 2"
    assert here.run_id == two.run_id != one.run_id


def test_after_load_the_run_goes_on_with_its_id_its_numbers_and_a_parent(tmp_path):
    first = filled(tmp_path, LOSSES)
    numbers = [manifest_of(tmp_path / f"model_{index}.pt").save_number for index in LOSSES]
    assert numbers == [1, 2, 3, 4]
    here = CheckpointDirectory(tmp_path)
    assert here.run_id != first.run_id
    here.load(2)
    assert here.run_id == first.run_id
    here.save(state(5), 5)
    fill_folder(here, "model_6")
    found = [manifest_of(tmp_path / name) for name in ("model_5.pt", "model_6")]
    assert [one.run_id for one in found] == [first.run_id] * 2
    assert [one.save_number for one in found] == [3, 4]
    assert {one.parent for one in found} == {Parent(first.run_id, 2, "model_2.pt")}


def test_from_a_file_by_another_tool_or_after_a_load_that_failed_nothing_is_taken_over(tmp_path):
    torch.save(state(9), tmp_path / "model_9.pt")
    other = filled(tmp_path, {1: None})
    here = CheckpointDirectory(tmp_path)
    run_id = here.run_id
    assert here.load()["step"] == 9
    with pytest.raises(StateMismatchError):
        here.load(1, into=torch.nn.Linear(2, 2))
    assert here.run_id == run_id != other.run_id
    here.save(state(10), 10)
    assert (manifest_of(here.latest().path).run_id, manifest_of(here.latest().path).parent) == (run_id, None)
