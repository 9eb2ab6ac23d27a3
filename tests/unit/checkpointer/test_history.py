"""What saves of a trainer, and of a `CheckpointDirectory`, write into the history of their directory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from typing import Any

import pytest

from marlin_ckpt import (
    CheckpointDirectory,
    DefaultCheckpointer,
    RetentionArguments,
    StorageError,
    Trainer,
    TrainerArguments,
)
from marlin_ckpt.arguments import DefaultCheckpointerArguments, SpiralArguments
from marlin_ckpt.directory import removing
from marlin_ckpt.directory.history import journal, reading
from marlin_ckpt.directory.history.events import (
    Ended,
    Measured,
    Removed,
    Resumed,
    Saved,
    SaveFailed,
    Started,
)
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.training.toys.spiral import Spiral
from tests.support.checkpoint_directories import fill_folder, state, truncate


def past(directory):
    found = reading.read(str(directory))
    assert (found.unread, found.newer) == (0, 0)
    return found.events


def kinds(directory) -> list[str]:
    return [one.kind for one in past(directory)]


def of(directory, kind: type) -> list[Any]:
    return [one for one in past(directory) if isinstance(one, kind)]


def train(directory, epochs: int, **options) -> Trainer:
    own = {"save_dir": directory, "model_state_save_dir": None, "keep": RetentionArguments(last=1)}
    checkpointer = DefaultCheckpointer(DefaultCheckpointerArguments(**{**own, **options}))
    arguments = TrainerArguments(device="cpu", train_batch_size=10, epochs=epochs)
    trainer = Trainer(Spiral(SpiralArguments(points=20)), arguments, checkpointer=checkpointer)
    trainer.train()
    return trainer


@pytest.mark.parametrize("async_save", [True, False])
def test_a_training_has_its_start_metrics_saves_removals_and_end(tmp_path, async_save):
    trainer = train(tmp_path, 2, async_save=async_save)
    inside = ["measured", "saved", "measured", "saved", "removed"]
    if async_save:  # a save behind the loop may end after the next epoch
        assert (kinds(tmp_path)[0], kinds(tmp_path)[-1]) == ("started", "ended")
        assert sorted(kinds(tmp_path)[1:-1]) == sorted(inside)
    else:
        assert kinds(tmp_path)[1:-1] == inside
    first, second = of(tmp_path, Measured)
    zero, one = of(tmp_path, Saved)
    (removed,) = of(tmp_path, Removed)
    started, ended = past(tmp_path)[0], past(tmp_path)[-1]
    assert {event.run_id for event in past(tmp_path)} == {trainer.checkpointer.run_id}
    assert isinstance(started, Started)
    assert (started.by, started.world_size, started.keep) == ("Trainer", 1, {"last": 1})
    assert set(started.versions) == {"marlin_ckpt", "torch", "python"}
    assert (first.epoch, first.step, second.epoch, second.step) == (0, 2, 1, 4)
    assert (zero.name, zero.index, zero.save_number, zero.step) == ("model_0.pt", 0, 1, 2)
    assert (one.name, one.index, one.save_number, one.step) == ("model_1.pt", 1, 2, 4)
    assert one.metrics == second.metrics
    assert one.size_bytes == (tmp_path / "model_1.pt").stat().st_size
    assert (removed.name, removed.index, removed.by) == ("model_0.pt", 0, "keep")
    assert removed.size_bytes == zero.size_bytes
    assert isinstance(ended, Ended)
    assert (ended.how, ended.error, ended.epochs, ended.step) == ("finished", "", 2, 4)


def test_a_resume_names_its_checkpoint_its_run_and_what_was_passed_over(tmp_path):
    run_id = train(tmp_path, 2, keep=None).checkpointer.run_id
    truncate(tmp_path / "model_1.pt")
    before = len(past(tmp_path))
    train(tmp_path, 2, keep=None, load_dir=tmp_path)
    started, resumed, *_ = past(tmp_path)[before:]
    assert isinstance(started, Started)
    assert isinstance(resumed, Resumed)
    assert started.run_id == resumed.run_id == resumed.parent_run_id == run_id
    assert (resumed.name, resumed.index, resumed.parent_save_number) == ("model_0.pt", 0, 1)
    assert list(resumed.passed_over) == ["model_1.pt"]
    assert resumed.passed_over["model_1.pt"]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_directory_object_begins_with_its_first_save_and_says_what_it_resumed_from(tmp_path, asynchronous):
    with CheckpointDirectory(tmp_path, keep=1, asynchronous=asynchronous) as here:
        here.save(state(1), 1, metrics={"loss": 0.5})
    assert kinds(tmp_path) == ["started", "saved"]
    with CheckpointDirectory(tmp_path, keep=1, asynchronous=asynchronous) as again:
        again.load()
        assert len(past(tmp_path)) == 2  # a look at a file is no resume
        again.save(state(2), 2)
        again.save(state(3), 3)
    assert kinds(tmp_path)[2:] == ["started", "resumed", "saved", "removed", "saved", "removed"]
    assert len({event.run_id for event in past(tmp_path)}) == 1


@pytest.mark.parametrize(("on_save_error", "raises"), [("raise", True), ("warn", False)])
@pytest.mark.parametrize("async_save", [True, False])
def test_a_save_that_fails_is_in_the_history_once_and_the_training_says_how_it_ended(
    tmp_path, monkeypatch, on_save_error, raises, async_save
):
    def full(*_, **__) -> None:
        raise StorageError("cannot write: no space left", errno=errno.EIO)

    monkeypatch.setattr(writer, "write_image" if async_save else "write_encoded", full)
    options = {"async_save": async_save, "on_save_error": on_save_error, "keep": None}
    with pytest.raises(StorageError) if raises else contextlib.nullcontext():
        train(tmp_path, 1, **options)
    failed = of(tmp_path, SaveFailed)
    # Where the last save of a run has failed in the background it is made once more.
    assert {(one.name, one.index, one.error) for one in failed} == {
        ("model_0.pt", 0, "cannot write: no space left")
    }
    assert len(failed) <= 2
    ended = past(tmp_path)[-1]
    assert isinstance(ended, Ended)
    assert (ended.how, ended.error) == (
        ("failed", "cannot write: no space left") if raises else ("finished", "")
    )
    assert of(tmp_path, Saved) == []


def test_what_a_user_s_callback_raises_is_no_failed_save(tmp_path):
    def fail(_) -> None:
        raise ValueError("upload")

    here = CheckpointDirectory(tmp_path, on_durable=fail)
    with pytest.raises(ValueError, match="upload"):
        here.save(state(1), 1)
    assert kinds(tmp_path) == ["started", "saved"]


def test_a_folder_that_is_filled_is_saved_and_one_whose_block_fails_is_a_failed_save(tmp_path):
    here = CheckpointDirectory(tmp_path)
    fill_folder(here, "model_1")
    with pytest.raises(ValueError, match="bad"), here.transaction("model_2"):
        raise ValueError("bad")
    with pytest.raises(KeyboardInterrupt), here.transaction("model_2"):
        raise KeyboardInterrupt
    started, saved, failed = past(tmp_path)
    assert (started.kind, saved.kind, saved.name) == ("started", "saved", "model_1")
    assert (failed.kind, failed.name, failed.index, failed.error) == (
        "save failed", "model_2", 2, "ValueError: bad",
    )  # fmt: skip


def test_a_save_is_durable_then_its_line_is_and_only_then_does_retention_remove(tmp_path, monkeypatch):
    order: list[str] = []
    real_append, real_remove = journal.append, removing.carry_out

    def append(directory: str, lines: bytes, *, is_durable: bool, **how: bool) -> None:
        order.extend(f"{json.loads(one)['event']}{'!' * is_durable}" for one in lines.splitlines())
        real_append(directory, lines, is_durable=is_durable, **how)

    def carry_out(plan, *rest):
        order.extend(f"remove {one.name}" for one in plan.removals)
        return real_remove(plan, *rest)

    def write_encoded(*args, **kwargs):
        done = real_write(*args, **kwargs)
        order.append("durable")
        return done

    real_write = writer.write_encoded
    monkeypatch.setattr(journal, "append", append)
    monkeypatch.setattr(removing, "carry_out", carry_out)
    monkeypatch.setattr(writer, "write_encoded", write_encoded)
    here = CheckpointDirectory(tmp_path, keep=1)
    here.save(state(1), 1)
    order.clear()
    here.save(state(2), 2)
    assert order == ["durable", "saved!", "remove model_1.pt", "removed"]


def test_no_event_is_synced_while_the_loop_runs_and_each_save_syncs_the_history_once(tmp_path, monkeypatch):
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        if name.startswith("events"):
            synced.append(threading.current_thread().name)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    train(tmp_path, 3, async_save=True, period=2, keep=None)
    saves, main = len(of(tmp_path, Saved)), threading.main_thread().name
    assert len(of(tmp_path, Measured)) == 3
    assert synced == ["marlin-ckpt save"] * saves + [main]  # and the end of the run


def test_a_history_that_cannot_be_written_stops_nothing_and_is_logged_once(tmp_path, monkeypatch, caplog):
    def broken(*_, **__) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journal, "append", broken)
    train(tmp_path, 3)
    assert len([one for one in caplog.records if "is not written" in one.getMessage()]) == 1
    assert (tmp_path / "model_2.pt").exists()


def test_a_training_that_begins_anew_says_what_it_removed_where_there_is_a_history(tmp_path):
    train(tmp_path, 2, keep=None)
    before = len(past(tmp_path))
    train(tmp_path, 1, keep=None, delete_existing_checkpoints=True)
    one, other, started, *_ = past(tmp_path)[before:]
    assert [(event.kind, event.name, event.by) for event in (one, other)] == [
        ("removed", "model_0.pt", "overwrite"),
        ("removed", "model_1.pt", "overwrite"),
    ]
    assert started.kind == "started"
    assert one.run_id == started.run_id != past(tmp_path)[0].run_id


def test_a_checkpointer_without_our_trainer_writes_none(tmp_path, make_checkpoint):
    args = DefaultCheckpointerArguments(save_dir=tmp_path, model_state_save_dir=None)
    DefaultCheckpointer(args).save(make_checkpoint(), 1)
    assert os.listdir(tmp_path) == ["model_1.pt"]


def test_the_digest_is_that_of_the_configuration_whether_the_run_begins_or_resumes(tmp_path):
    train(tmp_path, 1, keep=None)
    train(tmp_path, 1, keep=None, resume_from=tmp_path / "model_0.pt")
    train(tmp_path, 1, keep=RetentionArguments(last=3), delete_existing_checkpoints=True)
    one, again, other = (event.config_sha256 for event in of(tmp_path, Started))
    assert one == again != other
    assert len(one) == 64


def test_pruning_is_in_a_history_that_there_is(tmp_path):
    here = CheckpointDirectory(tmp_path, keep=1)
    other = CheckpointDirectory(tmp_path)
    for index in range(3):
        other.save(state(index), index)
    here.prune()
    assert [(one.name, one.by) for one in of(tmp_path, Removed)] == [
        ("model_0.pt", "prune"),
        ("model_1.pt", "prune"),
    ]
