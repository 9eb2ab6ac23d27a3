"""What a `CheckpointDirectory` sees: all checkpoints of its prefix in order, the newest, and the best."""

from __future__ import annotations

import copy
import math
import os
import pickle
from pathlib import Path

import pytest
import torch

from marlin_ckpt import ArgumentsError, CheckpointDirectory, Status, StorageError
from tests.support.checkpoint_directories import fill_folder, filled, flip, names, state, truncate


@pytest.mark.parametrize("is_made", [True, False])
def test_in_an_empty_or_missing_directory_there_is_nothing_and_nothing_is_made(tmp_path, is_made):
    path = tmp_path / "checkpoints"
    if is_made:
        path.mkdir()
    here = CheckpointDirectory(path)
    assert list(here) == []
    assert here.latest() is here.latest(intact=False) is here.best("loss") is None
    assert path.exists() is is_made
    assert not is_made or os.listdir(path) == []


def test_files_and_folders_of_the_prefix_come_in_the_order_of_their_index_and_nothing_else_does(tmp_path):
    here = filled(tmp_path, {10: 0.1, 9: 0.2, 100: None})
    fill_folder(here, "model_11", metrics={"loss": 3})
    fill_folder(here, "other_12")
    filled(tmp_path, {5: None}, prefix="modelling")
    filled(tmp_path, {6: None}, ext="ckpt")
    filled(tmp_path / "below", {7: None})
    torch.save(state(8), tmp_path / "model_8.pt")
    for name in (
        "model_model_3.pt",
        "model_x.pt",
        "model_1.0.pt",
        "model_4.pt.bak",
        ".model_4.pt",
        "model_٣.pt",
    ):
        torch.save({}, tmp_path / name)
    (tmp_path / "model_13").mkdir()  # no manifest: nobody's checkpoint
    found = list(here)
    assert names(found) == ["model_8.pt", "model_9.pt", "model_10.pt", "model_11", "model_100.pt"]
    assert [one.index for one in found] == [8, 9, 10, 11, 100]
    assert [one.metrics for one in found] == [{}, {"loss": 0.2}, {"loss": 0.1}, {"loss": 3.0}, {}]
    assert {one.kind for one in found} == {"checkpoint"}
    assert found[0].run_id == found[0].created == ""
    assert {one.run_id for one in found[1:]} == {here.run_id}
    folder = Path(found[3].path)
    inside = [path for path in folder.rglob("*") if path.is_file()]
    assert found[3].size_bytes == sum(path.stat().st_size for path in inside)
    assert found[4].size_bytes == os.path.getsize(found[4].path)
    assert names([here.latest(intact=False)]) == ["model_100.pt"]


def test_of_a_file_and_a_folder_with_one_index_the_one_that_was_saved_last_is_the_newest(tmp_path):
    here = CheckpointDirectory(tmp_path)
    for order in (["model_3", "model_3.pt"], ["model_3.pt", "model_3"]):
        for seconds, name in enumerate(order):
            if name == "model_3":
                fill_folder(here, name)
            else:
                here.save(state(3), 3)
            os.utime(tmp_path / name, (1_000 + seconds, 1_000 + seconds))
        assert names(here) == order
        assert names([here.latest(), here.latest(intact=False)]) == [order[-1]] * 2


def test_a_damaged_file_is_listed_with_its_status_and_passed_over_by_latest_with_the_reason(tmp_path, caplog):
    here = filled(tmp_path, dict.fromkeys(range(1, 6)))
    truncate(tmp_path / "model_5.pt")
    flip(tmp_path / "model_4.pt")
    (tmp_path / "model_3.pt").write_text("<html>")
    assert [one.status for one in here] == [
        Status.COMPLETE, Status.COMPLETE, Status.NOT_A_CHECKPOINT, Status.COMPLETE, Status.CORRUPT,
    ]  # fmt: skip
    assert [bool(one.reason) for one in here] == [False, False, True, False, True]
    newest = here.latest(intact=False)
    assert (newest.index, newest.status) == (5, Status.CORRUPT)
    assert caplog.records == []
    latest = here.latest()
    assert (latest.index, latest.status) == (2, Status.INTACT)
    texts = [one.getMessage() for one in caplog.records]
    assert [text.startswith(f"Passed over: {tmp_path}/model_") for text in texts] == [True] * 3
    assert ["corrupt" in text for text in texts] == [True, True, False]
    assert "web page" in texts[2]


def test_where_nothing_is_intact_there_is_no_latest_and_files_without_checksums_do_not_count(tmp_path):
    torch.save(state(1), tmp_path / "model_1.pt", _use_new_zipfile_serialization=False)
    here = filled(tmp_path, {2: None})
    truncate(tmp_path / "model_2.pt")
    assert here.latest() is None
    assert here.latest(intact=False).index == 2


def test_what_cannot_be_opened_ends_the_search_for_the_latest(tmp_path, monkeypatch):
    here = filled(tmp_path, dict.fromkeys((1, 2)))
    real = os.open

    def refuse(path, *args, **options):
        if str(path).endswith("model_2.pt"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"Permission denied.*model_2\.pt"):
        here.latest()
    assert [one.status for one in here] == [Status.COMPLETE, None]


def test_the_best_is_by_finite_values_and_of_equal_ones_the_newest(tmp_path):
    here = filled(
        tmp_path, {0: 2.0, 1: 1.0, 2: 1.0, 3: math.nan, 4: math.inf, 5: None, 6: 3.0, 7: 3.0, 8: -math.inf}
    )
    assert here.best("loss").index == here.best("loss", "min").index == 2
    assert here.best("loss", mode="max").index == 7
    assert here.best("loss").metrics == {"loss": 1.0}
    assert here.best("loss").status is Status.INTACT
    assert here.best("accuracy") is None


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_best_is_passed_over_with_the_reason(tmp_path, caplog, damage):
    here = filled(tmp_path, {1: 2.0, 2: 1.0, 3: 3.0})
    damage(tmp_path / "model_2.pt")
    assert here.best("loss").index == 1
    (record,) = caplog.records
    assert record.getMessage().startswith(f"Passed over: {tmp_path}/model_2.pt: corrupt: ")


@pytest.mark.parametrize("mode", ["lowest", "", "MIN", None])
def test_a_wrong_mode_is_refused_also_where_there_is_nothing(tmp_path, mode):
    with pytest.raises(ArgumentsError, match="mode"):
        CheckpointDirectory(tmp_path / "nowhere").best("loss", mode)


def test_with_run_only_the_checkpoints_of_that_run_are_seen(tmp_path, caplog):
    one = filled(tmp_path, {1: 0.5, 4: 0.1})
    two = filled(tmp_path, {2: 0.6, 3: 0.7})
    torch.save(state(9), tmp_path / "model_9.pt")
    assert [info.index for info in CheckpointDirectory(tmp_path)] == [1, 2, 3, 4, 9]
    caplog.clear()
    for run, indices in ((one.run_id, [1, 4]), (two.run_id, [2, 3])):
        seen = CheckpointDirectory(tmp_path, run=run)
        assert seen.run_id == run
        assert [info.index for info in seen] == indices
        assert seen.latest().index == seen.latest(intact=False).index == indices[-1]
        assert seen.best("loss", "max").index == {one.run_id: 1, two.run_id: 3}[run]
    assert list(CheckpointDirectory(tmp_path, run="nobody's")) == []
    assert caplog.records == []


def test_with_run_what_is_too_damaged_to_say_whose_it_is_is_not_listed_but_passed_over_with_the_reason(
    tmp_path, caplog
):
    run = filled(tmp_path, {1: 0.5, 2: 0.4}).run_id
    truncate(tmp_path / "model_2.pt")
    here = CheckpointDirectory(tmp_path, run=run)
    assert [info.index for info in here] == [1]
    assert here.latest(intact=False).index == 1
    assert caplog.records == []
    assert [here.latest().index, here.best("loss").index] == [1, 1]
    assert [one.getMessage().split(": ")[1] for one in caplog.records] == [f"{tmp_path}/model_2.pt"] * 2


def test_what_is_known_of_a_checkpoint_is_a_value_that_can_be_pickled(tmp_path):
    here = filled(tmp_path, {1: 0.5})
    (tmp_path / "model_2.pt").write_text("<html>")
    for info in here:
        assert pickle.loads(pickle.dumps(info)) == copy.deepcopy(info) == info
    report = here.save(state(3), 3, metrics={"loss": 1})
    assert pickle.loads(pickle.dumps(report)) == report
    assert (report.path, report.index, report.metrics) == (str(tmp_path / "model_3.pt"), 3, {"loss": 1.0})


def test_all_wrong_arguments_are_named_at_once_as_the_caller_wrote_them(tmp_path):
    with pytest.raises(ArgumentsError) as caught:
        CheckpointDirectory("", prefix="a/b", ext=".pt", keep=0, run="", asynchronous="no")
    assert {fault.field for fault in caught.value.faults} == {
        "path", "prefix", "ext", "keep", "run", "asynchronous",
    }  # fmt: skip
    for options in ({"keep": True}, {"keep": "3"}, {"keep": -1}, {"run": 3}, {"prefix": ""}):
        with pytest.raises(ArgumentsError) as caught:
            CheckpointDirectory(tmp_path, **options)
        assert [fault.field for fault in caught.value.faults] == list(options)


@pytest.mark.parametrize("index", [-1, 1.5, "3", None])
def test_an_index_that_is_none_is_refused_and_nothing_is_saved(tmp_path, index):
    with pytest.raises(ArgumentsError, match="index"):
        CheckpointDirectory(tmp_path / "new").save(state(1), index)
    assert os.listdir(tmp_path) == []
