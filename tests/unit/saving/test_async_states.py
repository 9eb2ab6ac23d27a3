"""Checkpoints taken asynchronously of what trainings are made of are those taken at once."""

from __future__ import annotations

import os
import sys
import threading
import types

import pytest
import torch

from marlin_ckpt import Checkpoint, StorageError
from marlin_ckpt.saving import background
from marlin_ckpt.saving.copying import awaited
from tests.support.async_runs import checkpointer
from tests.support.async_trainings import (
    OPTIMIZERS,
    CopiesAtTheBarrier,
    Training,
    described_file,
    without_versions,
)


def saved(directory, training, *, is_async, is_named=False):
    """What the files of a training hold, each of which was saved between two steps."""
    with checkpointer(directory, async_save=is_async) as one:
        if is_named:
            one.register(*training.optimizers)
        for index in range(5):
            training.step()
            if index == 3:
                training.forward()  # gradients wait for the next step
            if index != 1:
                one.save(training.checkpoint(), index)
    names = sorted(os.listdir(directory))
    return {name: described_file(os.path.join(directory, name)) for name in names}


def assert_saved_alike(directory, monkeypatch, is_late, **training):
    behind = os.path.join(directory, "behind")
    with monkeypatch.context() as patch:
        late = CopiesAtTheBarrier(patch) if is_late else None
        ours = saved(behind, Training(**training), is_async=True, is_named=is_late)
    wanted = saved(os.path.join(directory, "at once"), Training(**training), is_async=False)
    assert list(ours) == list(wanted) == [f"model_{index}.pt" for index in (0, 2, 3, 4)]
    assert [name for name in wanted if ours[name] != wanted[name]] == []
    assert late is None or late.late_bytes


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_asynchronous_checkpoint_is_bit_for_bit_the_synchronous_one(
    directory, monkeypatch, name, is_late, accumulated
):
    assert_saved_alike(directory, monkeypatch, is_late, optimizers=name, accumulated=accumulated)


@pytest.mark.parametrize(
    ("backend", "name"), [("eager", "AdamW fused"), ("aot_eager", "several"), ("aot_eager", "LBFGS")]
)
def test_of_a_compiled_module_too(directory, monkeypatch, backend, name):
    assert_saved_alike(directory, monkeypatch, True, optimizers=name, backend=backend)


def test_without_the_wait_before_a_step_and_without_versions_the_comparison_fails(directory, monkeypatch):
    before_step = awaited.Awaited.before_step

    def only_when_waiting(one):
        if sys._getframe(1).f_code.co_name == "wait":
            before_step(one)

    monkeypatch.setattr(awaited.Awaited, "before_step", only_when_waiting)
    without_versions(monkeypatch)
    with pytest.raises(AssertionError, match=r"model_0\.pt"):
        assert_saved_alike(directory, monkeypatch, True, optimizers="SGD")


def test_a_save_whose_thread_cannot_be_started_fails_at_once_and_the_next_one_is_made(tmp_path, monkeypatch):
    def refuse(**_):
        raise RuntimeError("can't start new thread")

    def state():
        return Checkpoint({"weight": torch.ones(1000)})

    with checkpointer(tmp_path) as own:
        with monkeypatch.context() as patch:
            stand_in = types.SimpleNamespace(**{**vars(threading), "Thread": refuse})
            patch.setattr(background, "threading", stand_in)
            with pytest.raises(
                StorageError, match="cannot start a thread that saves: can't start new thread"
            ):
                own.save(state(), 0)
        own.save(state(), 1)
    assert sorted(os.listdir(tmp_path)) == ["model_1.pt"]


@pytest.mark.parametrize("is_started", [False, True])
def test_an_interrupt_when_the_thread_of_a_save_is_started_leaves_it_running_or_no_save_under_way(
    tmp_path, monkeypatch, is_started
):
    class Interrupted(threading.Thread):
        def start(self):
            if is_started:
                super().start()
            raise KeyboardInterrupt

    def state(value):
        return Checkpoint({"weight": torch.full((1000,), value)})

    with checkpointer(tmp_path) as own:
        with monkeypatch.context() as patch:
            stand_in = types.SimpleNamespace(**{**vars(threading), "Thread": Interrupted})
            patch.setattr(background, "threading", stand_in)
            with pytest.raises(KeyboardInterrupt):
                own.save(state(0.0), 0)
        own.save(state(1.0), 1)
    assert sorted(os.listdir(tmp_path)) == ["model_0.pt"] * is_started + ["model_1.pt"]
