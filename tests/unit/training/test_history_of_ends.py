"""How trainings end, and the signals that they answer, in the history of their directory."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from marlin_ckpt import DefaultCheckpointer, Preempted, Trainer, TrainerArguments
from marlin_ckpt.arguments import DefaultCheckpointerArguments, SpiralArguments
from marlin_ckpt.directory.history import reading
from marlin_ckpt.training.toys.spiral import Spiral


def past(directory) -> list[Any]:
    return list(reading.read(str(directory)).events)


def kinds(directory) -> list[str]:
    return [one.kind for one in past(directory)]


class Stopping(Spiral):
    """Sends its own process a signal in the second step, or raises."""

    what: Any = signal.SIGTERM

    def train_step(self, **step: Any) -> Any:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 2:
            if isinstance(self.what, BaseException):
                raise self.what
            os.kill(os.getpid(), self.what)
        return super().train_step(**step)


def stopped_by(directory, what: Any) -> None:
    module = Stopping(SpiralArguments(points=20))
    module.what = what
    args = DefaultCheckpointerArguments(save_dir=directory, model_state_save_dir=None)
    arguments = TrainerArguments(device="cpu", train_batch_size=4, epochs=1)
    Trainer(module, arguments, checkpointer=DefaultCheckpointer(args)).train()


def test_a_signal_that_stops_is_in_the_history_before_the_save_that_it_asks_for(tmp_path):
    with pytest.raises(Preempted):
        stopped_by(tmp_path, signal.SIGTERM)
    assert kinds(tmp_path) == ["started", "signal", "saved", "ended"]
    _, signalled, saved, ended = past(tmp_path)
    assert (signalled.signal, signalled.step, saved.step) == ("SIGTERM", 2, 2)
    assert (ended.how, ended.error, ended.step) == ("stopped", "", 2)


def test_a_signal_that_asks_to_save_does_not_stop(tmp_path):
    stopped_by(tmp_path, signal.SIGUSR1)
    assert kinds(tmp_path)[:3] == ["started", "signal", "saved"]
    assert past(tmp_path)[1].signal == "SIGUSR1"
    assert past(tmp_path)[-1].how == "finished"


class Mute(Exception):
    def __str__(self) -> str:
        raise AttributeError("message")


def test_an_error_that_has_no_words_is_raised_as_ever_and_its_kind_is_in_the_history(tmp_path):
    with pytest.raises(Mute):
        stopped_by(tmp_path, Mute())
    assert (past(tmp_path)[-1].how, past(tmp_path)[-1].error) == ("failed", "Mute")


def test_what_a_module_raises_is_how_the_training_ended(tmp_path):
    with pytest.raises(RuntimeError):
        stopped_by(tmp_path, RuntimeError("CUDA out of memory"))
    assert (past(tmp_path)[-1].how, past(tmp_path)[-1].error) == (
        "failed",
        "RuntimeError: CUDA out of memory",
    )
