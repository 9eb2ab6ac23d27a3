"""Trainings that are stopped and go on, and whether two of them are the same."""

from __future__ import annotations

import os
import signal

import torch

from marlin_ckpt import (
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    Trainer,
    TrainerArguments,
)
from marlin_ckpt.training.resume.leaves import how_different, leaves
from tests.support.proven_modules import Careful

EPOCHS, STEPS = 3, 18  # 44 samples in batches of 8: 6 steps an epoch, the last one of 4


class StopsAt:
    """Observes a trainer, and sends its own process a signal after some of its steps."""

    def __init__(self, *steps: int, number: int = signal.SIGTERM):
        self.steps, self.number = steps, number
        self.losses: list[tuple[int, float]] = []
        self.saved: list[str] = []

    def on_epoch_begin(self, epoch, epochs, steps, done):
        self.began = (epoch, done)

    def on_global_step(self, global_step, loss):
        self.losses.append((global_step, loss))
        if global_step in self.steps:
            os.kill(os.getpid(), self.number)

    def on_epoch_end(self, epoch, metrics):
        self.metrics = dict(metrics)

    def on_save(self, path, index, report):
        self.saved.append(os.path.basename(path))


def arguments(**fields) -> TrainerArguments:
    return TrainerArguments(
        **{
            "epochs": EPOCHS,
            "train_batch_size": 8,
            "val_batch_size": 16,
            "device": "cpu",
            "seed": 3,
            **fields,
        }
    )


def trainer_in(directory, observer=None, module=None, checkpointer=None, **fields) -> Trainer:
    args = DefaultCheckpointerArguments(
        save_dir=str(directory), load_dir=str(directory), model_state_save_dir=None, **(checkpointer or {})
    )
    args_of_trainer = arguments(**fields)
    torch.manual_seed(0)
    return Trainer(
        (module or Careful)(), args_of_trainer, checkpointer=DefaultCheckpointer(args), observer=observer
    )


def final_state(trainer: Trainer) -> dict:
    states = {"module": trainer.module.get_state(), "trainer": trainer.get_state()}
    states["backend"] = trainer.trainer_backend.get_state()
    return dict(leaves(states))


def assert_same(left: Trainer, right: Trainer) -> None:
    ours, theirs = final_state(left), final_state(right)
    assert ours.keys() == theirs.keys()
    assert {key: told for key in ours if (told := how_different(ours[key], theirs[key]))} == {}
