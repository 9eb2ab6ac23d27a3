"""Checkpoints and stops within an epoch: what they hold of its outputs, and how a run goes on after them."""

import multiprocessing
import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader

from marlin_ckpt import Preempted, StateMismatchError, StorageError, TrainingError
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.training import outputs
from tests.support.proven_modules import Careful
from tests.support.stopped_runs import StopsAt, assert_same, trainer_in
from tests.support.tiny_module import Tiny, trained


class Wordy(Tiny):
    """Returns its loss, a large tensor and a text at each step."""

    def train_step(self, global_step, batch, device):
        return super().train_step(global_step, batch, device), torch.ones(8, 500), "words"


class Listening(Wordy):
    """Uses what its steps returned."""

    heard = ()

    def on_end_train_epoch(self, global_step, *outputs):
        self.heard = outputs


def held(shelf):
    """What each checkpoint within an epoch holds of the epoch's outputs."""
    states = [checkpoint.trainer_backend_state for _, checkpoint in shelf.kept]
    return [state["epoch"]["outputs"] for state in states if "epoch" in state]


def test_a_checkpoint_within_an_epoch_holds_the_losses_alone_where_nothing_uses_the_rest():
    _, shelf = trained(Wordy(), index_by="step")
    assert [[len(losses)] for (losses,) in held(shelf)] == [[1], [2], [3], [4]]


def test_it_holds_all_outputs_that_the_end_of_the_epoch_uses_up_to_a_limit(monkeypatch):
    _, shelf = trained(Listening(), index_by="step")
    assert [(len(one), len(many), words) for one, many, words in held(shelf)] == [
        (step, 8 * step, ["words"] * step) for step in (1, 2, 3, 4)
    ]
    monkeypatch.setattr(outputs, "_MOST_BYTES", 40_000)
    module = Listening()
    _, shelf = trained(module, index_by="step")
    assert [(len(one), many is None, len(words)) for one, many, words in held(shelf)] == [
        (1, False, 1),
        (2, False, 2),
        (3, True, 3),
        (4, True, 4),
    ]
    assert len(module.heard[1]) == 32  # what is in memory is all there


def test_beyond_the_limit_the_losses_are_left_out_last(monkeypatch):
    monkeypatch.setattr(outputs, "_MOST_BYTES", 30)
    _, shelf = trained(Listening(), index_by="step")
    assert [(len(one), many, len(words)) for one, many, words in held(shelf)[:3]] == [
        (1, None, 1),
        (2, None, 2),
        (3, None, 3),
    ]
    collector = outputs.EpochOutputs()
    for _ in range(9):
        collector.collect(torch.tensor(1.0))
    assert collector.state(only_losses=True) == [None]
    assert collector.collated()[0].tolist() == [1.0] * 9


class Hearing(Careful):
    """A careful module that uses all that its steps return."""

    heard = ()

    def train_step(self, global_step, batch, device):
        loss = super().train_step(global_step, batch, device)
        return (loss, batch[0]) if self.training else loss

    def on_end_train_epoch(self, global_step, *outputs):
        self.heard = outputs


def stopped(directory, *steps, module=Hearing, **fields):
    with pytest.raises(Preempted):
        trainer_in(directory, StopsAt(*steps), module, **fields).train()


def test_the_end_of_an_epoch_that_was_resumed_is_given_the_outputs_of_all_of_it(tmp_path):
    whole = trainer_in(tmp_path / "whole", module=Hearing, epochs=1)
    whole.train()
    stopped(tmp_path / "cut", 4, epochs=1)
    cut = trainer_in(tmp_path / "cut", module=Hearing, epochs=1, exact=True)
    cut.train()
    assert [torch.equal(*pair) for pair in zip(whole.module.heard, cut.module.heard, strict=True)] == [
        True,
        True,
    ]


def test_a_resume_says_that_outputs_beyond_the_limit_are_lost_and_exact_refuses_it(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(outputs, "_MOST_BYTES", 100)
    stopped(tmp_path, 4)
    with pytest.raises(StateMismatchError, match="outputs of the epoch's steps"):
        trainer_in(tmp_path, module=Hearing, exact=True)
    observer = StopsAt()
    trainer_in(tmp_path, observer, Hearing, epochs=1).train()
    assert "outputs of the epoch's steps" in caplog.text
    assert "train_loss" in observer.metrics


class InValidation(Careful):
    """Is sent SIGTERM in the validation of its first epoch."""

    sends = True

    def val_step(self, global_step, batch, device):
        if self.sends:
            InValidation.sends = False
            os.kill(os.getpid(), signal.SIGTERM)
        return super().val_step(global_step, batch, device)


@pytest.mark.parametrize("is_same_trainer", [True, False])
def test_after_a_stop_within_a_validation_the_epoch_has_no_further_step_and_keeps_its_loss(
    tmp_path, is_same_trainer
):
    fields = {"epochs": 1, "max_train_steps_per_epoch": 4}
    straight, observer = StopsAt(), StopsAt()
    whole = trainer_in(tmp_path / "whole", straight, **fields)
    whole.train()
    InValidation.sends = True
    cut = trainer_in(tmp_path / "cut", observer, InValidation, **fields)
    with pytest.raises(Preempted):
        cut.train()
    if not is_same_trainer:
        cut = trainer_in(tmp_path / "cut", observer, InValidation, **fields)
    cut.train()
    assert cut.global_steps_finished == 4
    assert observer.metrics == straight.metrics
    assert_same(whole, cut)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13
@pytest.mark.parametrize(
    ("args", "fields"),
    [
        ({}, {}),
        ({}, {"max_train_steps_per_epoch": 5, "index_by": "step"}),
        ({"loader": "shuffle"}, {"gpu_batch_size_limit": 4}),
        ({"loader": "stream"}, {"max_train_steps_per_epoch": 6}),
        ({"loader": "stateful"}, {}),
        ({"workers": 2}, {"backend": "sp-amp"}),
    ],
    ids=["plain", "limited", "shuffle", "stream", "stateful", "workers"],
)
def test_training_called_again_after_a_stop_is_the_run_that_was_never_stopped(tmp_path, args, fields):
    straight = StopsAt()
    whole = trainer_in(tmp_path / "whole", straight, lambda: Careful(**args), **fields)
    whole.train()
    observer = StopsAt(2, 4, 8)
    again = trainer_in(tmp_path / "again", observer, lambda: Careful(**args), **fields)
    for _ in range(3):
        with pytest.raises(Preempted):
            again.train()
        torch.rand(7)  # whoever calls it again may draw between
    again.train()
    assert observer.losses == straight.losses
    assert observer.metrics == straight.metrics
    assert_same(whole, again)


class Failing(Tiny):
    """Fails once, in its second batch."""

    fails = True

    def train_step(self, global_step, batch, device):
        if self.steps == 1 and self.fails:
            self.fails = False
            raise RuntimeError("out of luck")
        return super().train_step(global_step, batch, device)


def test_training_that_an_error_has_ended_within_a_step_is_not_called_again(tmp_path):
    trainer = trainer_in(tmp_path, module=Failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.train()
    with pytest.raises(TrainingError, match="in the middle of a global step"):
        trainer.train()


class Keeping(Careful):
    """Uses the same loader, with workers that outlive an epoch, for all of them."""

    def __init__(self):
        super().__init__()
        options = {"num_workers": 1, "persistent_workers": True}
        self.loader = DataLoader(self.data, 4, sampler=list(range(44)), **options)

    def get_train_dataloader(self, sampler, batch_size):
        return self.loader

    get_val_dataloaders = get_train_dataloader


def test_workers_that_outlive_an_epoch_go_on_after_an_early_end_and_after_a_stop(tmp_path):
    observer = StopsAt(3)
    fields = {"epochs": 3, "max_train_steps_per_epoch": 2, "max_val_steps_per_epoch": 1}
    trainer = trainer_in(tmp_path, observer, Keeping, **fields)
    with pytest.raises(Preempted):
        trainer.train()
    trainer.train()
    assert trainer.global_steps_finished == 6
    assert [step for step, _ in observer.losses] == [1, 2, 3, 4, 5, 6]


class Ending(Careful):
    """Counts the workers at the end of each training and validation, and fails in its last validation."""

    def __init__(self):
        super().__init__(workers=1)
        self.alive = []

    def get_val_dataloaders(self, sampler, batch_size):
        self.alive.append(len(multiprocessing.active_children()))
        return DataLoader(self.data, batch_size, num_workers=1)

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        super().on_end_val_epoch(global_step, *outputs)
        self.alive.append(len(multiprocessing.active_children()))

    def val_step(self, global_step, batch, device):
        if len(self.alive) == 3:
            raise RuntimeError("out of luck")
        return super().val_step(global_step, batch, device)


def test_the_workers_of_a_loader_end_with_its_last_batch_that_is_used_or_with_an_error(tmp_path):
    fields = {"max_train_steps_per_epoch": 1, "max_val_steps_per_epoch": 1, "epochs": 2}
    trainer = trainer_in(tmp_path, module=Ending, **fields)
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        trainer.train()
    assert trainer.module.alive == [0, 0, 0]
    assert caught.traceback  # which holds the frames of the validation
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("is_behind", "fails", "asked"),
    [
        (True, False, [False]),
        (False, False, [False]),
        (True, True, [False, True]),
        (False, True, [False, True]),
    ],
)
def test_the_last_checkpoint_is_handed_over_again_only_where_it_was_not_made(
    tmp_path, monkeypatch, is_behind, fails, asked
):
    observer = StopsAt()
    options = {"async_save": is_behind, "on_save_error": "raise" if is_behind else "warn"}
    trainer = trainer_in(tmp_path, observer, checkpointer=options, epochs=1)
    name = "write_image" if is_behind else "write_encoded"
    save, forces, write = trainer.checkpointer.save, [], getattr(writer, name)

    def noted(state, index, force=False):
        forces.append(force)
        return save(state, index, force)

    def failing(*values, **options):
        if fails and len(forces) == 1:
            raise StorageError("no space left")
        return write(*values, **options)

    trainer.checkpointer.save = noted
    monkeypatch.setattr(writer, name, failing)
    trainer.train()
    assert forces == asked
    assert observer.saved == ["model_0.pt"]
