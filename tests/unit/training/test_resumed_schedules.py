"""A schedule that was made for another run is announced or refused, and never run past its end."""

import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from marlin_ckpt import ModuleInterface, Preempted, StateMismatchError
from tests.support.stopped_runs import StopsAt, trainer_in

STEPS = 4  # in an epoch


class Scheduled(ModuleInterface):
    def __init__(self, schedule=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.schedule = schedule
        self.steps = 0

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        made = self.schedule and self.schedule(optimizer, estimated_global_steps_per_epoch * epochs)
        return [optimizer], [made] if made else []

    def get_train_dataloader(self, sampler, batch_size):
        data = torch.arange(float(8 * STEPS))
        return DataLoader(data, batch_size, sampler=sampler(data))

    get_val_dataloaders = get_train_dataloader

    def train_step(self, global_step, batch, device):
        self.steps += 1
        return (self.weight - batch.mean()).square().mean()

    def val_step(self, global_step, batch, device):
        return batch


def cosine(optimizer, steps):
    return lr_scheduler.CosineAnnealingLR(optimizer, steps)


def linear(optimizer, steps):
    return lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)


def warmed_up(optimizer, steps):
    parts = [lr_scheduler.ConstantLR(optimizer), cosine(optimizer, steps - 2)]
    return lr_scheduler.SequentialLR(optimizer, parts, [2])


def halving(optimizer, steps):
    return lr_scheduler.StepLR(optimizer, 3, gamma=0.5)


def one_cycle(optimizer, steps):
    return lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)


class Own(lr_scheduler.LRScheduler):
    """One of a user's, whose state shows nothing."""

    def __init__(self, optimizer, steps):
        self.steps = steps
        super().__init__(optimizer)

    def get_lr(self):
        return [0.1 * (1 - self.last_epoch / self.steps)]

    def state_dict(self):
        return {"last_epoch": self.last_epoch}


@pytest.mark.parametrize(
    ("schedule", "refused", "announced"),
    [
        (
            cosine,
            "schedulers[0].T_max was 8 and is 16",
            "schedulers[0].T_max stays 8, as saved, and the module's 16 is not used",
        ),
        (
            warmed_up,
            "schedulers[0]._schedulers[1].T_max was 6 and is 14",
            "schedulers[0]._schedulers[1].T_max stays 6, as saved, and the module's 14 is not used",
        ),
        (linear, "epochs was 2 and is 4", "epochs was 2 and is 4"),
        (Own, "epochs was 2 and is 4", "epochs was 2 and is 4"),
    ],
)
@pytest.mark.parametrize("stop", [2 * STEPS, 5], ids=["between", "within"])
def test_more_epochs_than_a_schedule_was_made_for_are_announced_and_refused_when_it_must_be_exact(
    tmp_path, caplog, schedule, refused, announced, stop
):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(stop), lambda: Scheduled(schedule), epochs=2).train()
    with pytest.raises(StateMismatchError) as caught:
        trainer_in(tmp_path, None, lambda: Scheduled(schedule), epochs=4, exact=True)
    assert caught.value.differences == (refused,)
    trainer = trainer_in(tmp_path, None, lambda: Scheduled(schedule), epochs=4)
    trainer.train()
    assert f"This resume will not be exact because {announced}." in caplog.text
    assert trainer.global_steps_finished == 4 * STEPS


@pytest.mark.parametrize("schedule", [None, halving])
def test_more_epochs_are_exact_where_no_schedule_was_made_from_their_number(tmp_path, caplog, schedule):
    whole = trainer_in(tmp_path / "whole", None, lambda: Scheduled(schedule), epochs=4)
    whole.train()
    trainer_in(tmp_path / "cut", None, lambda: Scheduled(schedule), epochs=2).train()
    cut = trainer_in(tmp_path / "cut", None, lambda: Scheduled(schedule), epochs=4, exact=True)
    cut.train()
    assert cut.module.weight.item() == whole.module.weight.item()
    assert "not be exact" not in caplog.text


@pytest.mark.parametrize("stop", [2 * STEPS, 5], ids=["between", "within"])
def test_a_schedule_that_would_raise_an_error_on_the_way_is_refused_before_the_first_step(tmp_path, stop):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(stop), lambda: Scheduled(one_cycle), epochs=2).train()
    module = Scheduled(one_cycle)
    with pytest.raises(StateMismatchError, match="made for 8 steps, and the run has 12") as caught:
        trainer_in(tmp_path, None, lambda: module, epochs=3).train()
    assert module.steps == 0
    assert "reset_optimizers_schedulers" in caught.value.hint
    trainer_in(tmp_path, None, lambda: Scheduled(one_cycle), epochs=2, exact=True).train()
    again = {"epochs": 3, "reset_optimizers_schedulers": True}
    trainer_in(tmp_path, None, lambda: Scheduled(one_cycle), **again).train()


def test_new_optimizers_are_refused_when_it_must_be_exact(tmp_path):
    trainer_in(tmp_path, None, Scheduled, epochs=1).train()
    with pytest.raises(StateMismatchError, match="makes new optimizers and schedulers"):
        trainer_in(tmp_path, None, Scheduled, epochs=2, exact=True, reset_optimizers_schedulers=True)
