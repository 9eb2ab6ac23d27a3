"""`CheckpointDirectory.transaction`: a folder of the run appears whole, or nothing of it is left."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from marlin_ckpt import ArgumentsError, CheckpointDirectory, SaveReport, Status, StorageError, verify
from marlin_ckpt.directory import runs
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.saving import lineage
from marlin_ckpt.saving.engine import Engine
from tests.support.async_runs import Gate
from tests.support.checkpoint_directories import fill_folder, filled, listed, manifest_of, names, state
from tests.support.folder_checkpoints import staged


class UploadError(Exception):
    """What a user's callback raises: none of ours."""


def test_the_folder_is_a_checkpoint_of_the_run_with_its_index_metrics_and_checksums(tmp_path):
    here = filled(tmp_path / "new", {1: 0.5})
    fill_folder(here, "model_2", metrics={"loss": 0.25})
    fill_folder(here, "model_3", index=30)
    fill_folder(here, "final")
    assert [(one.index, one.metrics, one.run_id) for one in here] == [
        (1, {"loss": 0.5}, here.run_id), (2, {"loss": 0.25}, here.run_id), (3, {}, here.run_id),
    ]  # fmt: skip
    found = [manifest_of(tmp_path / "new" / name) for name in ("model_2", "model_3", "final")]
    assert [(one.index, one.save_number) for one in found] == [(2, 2), (30, 3), (0, 4)]
    assert here.best("loss").path == str(tmp_path / "new" / "model_2")
    assert verify(here.latest().path).status is Status.INTACT
    Path(here.latest().path, "deep", "rng").write_bytes(b"s")
    assert verify(here.latest(intact=False).path).status is Status.CORRUPT
    assert here.latest().index == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_an_exception_nothing_is_left_the_old_folder_stands_and_nobody_is_told(tmp_path, error):
    seen: list[SaveReport] = []
    here = CheckpointDirectory(tmp_path, keep=1, on_durable=seen.append)
    fill_folder(here, "model_1")
    number = manifest_of(tmp_path / "model_1").save_number
    for name in ("model_1", "model_2"):
        with pytest.raises(error), here.transaction(name) as folder:
            Path(folder, "weights").write_bytes(b"half")
            raise error
    assert listed(tmp_path) == ["model_1"]
    assert verify(tmp_path / "model_1").status is Status.INTACT
    assert len(seen) == 1
    fill_folder(here, "model_2")
    assert manifest_of(tmp_path / "model_2").save_number == number + 1


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("a/b", {}, "name"),
        ("..", {}, "name"),
        ("", {}, "name"),
        (".trash", {}, "name"),
        ("model_1", {"index": -1}, "index"),
        ("model_1", {"metrics": {"loss": "high"}}, "metrics['loss']"),
    ],
)
def test_a_name_index_or_metric_that_is_wrong_is_refused_before_the_block(tmp_path, name, options, field):
    with (
        pytest.raises(ArgumentsError) as caught,
        CheckpointDirectory(tmp_path / "new").transaction(name, **options),
    ):
        pytest.fail("the block is entered")
    assert [fault.field for fault in caught.value.faults] == [field]
    assert os.listdir(tmp_path) == []


def test_a_folder_does_not_replace_a_file_nor_a_file_a_folder(tmp_path):
    here = filled(tmp_path, {1: None})
    with pytest.raises(StorageError, match="has the name"), here.transaction("model_1.pt"):
        pytest.fail("the block is entered")
    fill_folder(here, "model_2.pt")
    with pytest.raises(StorageError, match=r"model_2\.pt"):
        here.save(state(2), 2)
    assert names(here) == listed(tmp_path) == ["model_1.pt", "model_2.pt"]


@pytest.mark.parametrize("is_async", [True, False])
def test_on_durable_is_told_once_of_the_folder_after_retention(tmp_path, is_async):
    seen: list[tuple[str, list[str], threading.Thread]] = []

    def durable(report: SaveReport) -> None:
        assert verify(report.path).status is Status.INTACT
        seen.append((report.path, listed(tmp_path), threading.current_thread()))

    with CheckpointDirectory(tmp_path, keep=1, asynchronous=is_async, on_durable=durable) as here:
        for name in ("model_1", "model_2"):
            fill_folder(here, name)
    assert seen == [
        (str(tmp_path / name), [name], threading.main_thread()) for name in ("model_1", "model_2")
    ]


def test_what_on_durable_raises_is_raised_and_the_folder_is_there_with_its_number(tmp_path):
    def durable(report: SaveReport) -> None:
        if report.index == 1:
            raise UploadError

    here = CheckpointDirectory(tmp_path, on_durable=durable)
    with pytest.raises(UploadError):
        fill_folder(here, "model_1")
    fill_folder(here, "model_2")
    assert [manifest_of(one.path).save_number for one in here] == [1, 2]


def test_on_durable_may_begin_no_transaction_of_the_same_object(tmp_path):
    caught: list[int | None] = []

    def durable(report: SaveReport) -> None:
        with (
            pytest.raises(StorageError, match="in the middle of a save") as error,
            here.transaction("model_9"),
        ):
            pytest.fail("the block is entered")
        caught.append(error.value.errno)

    here = CheckpointDirectory(tmp_path, on_durable=durable)
    fill_folder(here, "model_1")
    here.save(state(2), 2)
    assert caught == [errno.EDEADLK] * 2
    assert listed(tmp_path) == ["model_1", "model_2.pt"]


def test_what_is_saved_in_the_block_has_another_number_and_is_written_earlier(tmp_path, monkeypatch):
    times = iter(f"2026-11-01T00:00:0{second}.000Z" for second in range(9))
    monkeypatch.setattr(lineage, "now", lambda: next(times))
    here = CheckpointDirectory(tmp_path)
    with here.transaction("model_2") as folder:
        Path(folder, "weights").write_bytes(b"w")
        here.save(state(1), 1)
    first, second = (manifest_of(one.path) for one in here)
    assert (first.save_number, second.save_number) == (1, 2)
    assert first.created < second.created


def test_a_save_in_the_background_ends_before_the_folder_is_published(tmp_path, monkeypatch):
    seen: list[str] = []
    gate, alone = Gate(monkeypatch), Engine.alone

    def open_and_wait(engine: Engine):
        gate.opened.set()
        return alone(engine)

    monkeypatch.setattr(Engine, "alone", open_and_wait)
    here = CheckpointDirectory(
        tmp_path,
        asynchronous=True,
        keep=2,
        on_durable=lambda report: seen.append(os.path.basename(report.path)),
    )
    here.save(state(1), 1)
    assert gate.reached.wait(60)
    with here.transaction("model_2") as folder:
        Path(folder, "weights").write_bytes(b"w")
    assert seen == ["model_1.pt", "model_2"]
    here.close()


def test_what_a_save_in_the_background_has_failed_with_is_raised_once_the_folder_is_there(
    tmp_path, monkeypatch
):
    def full_disk(*_):
        raise StorageError("cannot write: no space left", errno=errno.ENOSPC)

    here = CheckpointDirectory(tmp_path, asynchronous=True)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_image", full_disk)
        here.save(state(1), 1)
        with pytest.raises(StorageError, match="no space left"):
            fill_folder(here, "model_2")
    assert listed(tmp_path) == ["model_2"]
    here.close()


@pytest.mark.parametrize("then", ["save", "transaction"])
def test_what_a_killed_process_leaves_is_removed_by_the_next_save_and_by_the_next_transaction(tmp_path, then):
    child = os.fork()
    if not child:
        with CheckpointDirectory(tmp_path).transaction("model_1") as folder:
            Path(folder, "weights").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(staged(tmp_path)) == 1
    here = CheckpointDirectory(tmp_path)
    assert (list(here), here.latest()) == ([], None)
    if then == "save":
        here.save(state(2), 2)
    else:
        fill_folder(here, "model_2")
    assert names(listed(tmp_path)) == names(here)
    assert len(list(here)) == 1


def test_a_transaction_of_a_second_run_is_noted_and_warns_where_it_would_never_be_the_newest(
    tmp_path, caplog
):
    other = filled(tmp_path, {5: None})
    here = CheckpointDirectory(tmp_path)
    caplog.clear()
    fill_folder(here, "model_3")
    (text,) = [one.getMessage() for one in caplog.records]
    assert f"{tmp_path}/model_5.pt of another run (run {other.run_id}) stays the newest" in text
    assert runs.known_runs(str(tmp_path)) == [here.run_id, other.run_id]
    fill_folder(here, "model_6")
    fill_folder(here, "elsewhere_1")
    assert len(caplog.records) == 1
