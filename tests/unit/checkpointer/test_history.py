"""What saves of a trainer, and of a `CheckpointDirectory`, write into the history of their directory."""

from __future__ import annotations

from typing import Any

import pytest

from marlin_ckpt import (
    CheckpointDirectory,
    DefaultCheckpointer,
    RetentionArguments,
    Trainer,
    TrainerArguments,
)
from marlin_ckpt.arguments import DefaultCheckpointerArguments, SpiralArguments
from marlin_ckpt.directory.history import reading
from marlin_ckpt.directory.history.events import Ended, Measured, Removed, Resumed, Saved, Started
from marlin_ckpt.training.toys.spiral import Spiral
from tests.support.checkpoint_directories import state, truncate


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
