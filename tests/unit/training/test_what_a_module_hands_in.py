"""Optimizers and schedulers of any kind train, or are refused before any work is done."""

import pytest
import torch

from marlin_ckpt import ArgumentsError, SingleProcess, Trainer, TrainerArguments, TrainingError
from tests.support.tiny_module import Shelf, Tiny, trained


def plateau(optimizer, **options):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, **options)


def rate(trainer):
    return trainer.optimizers[0].param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("measured", "name", "mode", "expected"),
    [
        ([{"val_loss": 1.0}, {"val_loss": 2.0}, {"val_loss": 3.0}], None, "min", 0.25),
        ([{"val_loss": 3.0}, {"val_loss": 2.0}, {"val_loss": 1.0}], None, "min", 1.0),
        ([{"acc": 1.0}, {"acc": 2.0}, {"acc": 1.5}], "acc", "max", 0.5),
        ([{"val_loss": 9.0, "acc": 1.0}] * 3, "acc", "min", 0.25),
    ],
)
def test_a_schedule_on_a_plateau_is_stepped_with_the_metric_of_the_validation_or_the_named_one(
    measured, name, mode, expected
):
    module = Tiny(scheduler=lambda optimizer: plateau(optimizer, mode=mode), metrics=measured)
    trainer, _ = trained(module, epochs=3, step_schedulers_by="epoch", plateau_metric=name)
    assert rate(trainer) == expected


def test_without_a_metric_of_the_validation_a_plateau_is_one_of_the_training_loss():
    module = Tiny(scheduler=plateau)
    trainer, shelf = trained(module, epochs=2, step_schedulers_by="epoch")
    losses = [checkpoint.metrics["train_loss"] for _, checkpoint in shelf.kept]
    assert trainer.schedulers[0].best == min(losses)


def test_a_plateau_whose_metric_is_not_measured_is_left_alone_and_the_log_says_so(caplog):
    module = Tiny(scheduler=plateau, metrics=[{"accuracy": 1.0}])
    trainer, _ = trained(module, step_schedulers_by="epoch", plateau_metric="acuracy")
    assert trainer.schedulers[0].best == float("inf")
    assert "ReduceLROnPlateau was not stepped: there is no metric acuracy" in caplog.text
    assert "accuracy" in caplog.text


class Picky(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self):
        return [1.0]

    def step(self, metric=None, *, budget=None):
        pass


class Greedy(Picky):
    def step(self, metric, budget):
        pass


def lbfgs(module):
    return [torch.optim.LBFGS(module.net.parameters())]


class NeedsClosure(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


@pytest.mark.parametrize(
    ("module", "fields", "says"),
    [
        (lambda: Tiny(scheduler=plateau), {}, "ReduceLROnPlateau needs a metric.*schedulers.0"),
        (
            lambda: Tiny(scheduler=lambda one: plateau(one, mode="max")),
            {"step_schedulers_by": "epoch"},
            "maximum of a metric that is not named",
        ),
        (
            lambda: Tiny(scheduler=lambda one: object.__new__(Greedy)),
            {"step_schedulers_by": "epoch"},
            "metric and budget",
        ),
        (lambda: Tiny(optimizer=lbfgs), {}, "LBFGS needs a closure.*optimizers.0"),
        (lambda: Tiny(optimizer=lbfgs), {"backend": "sp-amp"}, "LBFGS needs a closure"),
        (
            lambda: Tiny(optimizer=lambda one: [NeedsClosure(one.net.parameters())]),
            {},
            "NeedsClosure needs a closure",
        ),
    ],
)
def test_what_cannot_be_stepped_is_refused_by_its_name_before_any_step(module, fields, says):
    module = module()
    with pytest.raises(TrainingError, match=says):
        trained(module, epochs=2, **fields)
    assert module.steps == 0


def test_a_scheduler_whose_arguments_have_defaults_is_stepped_without_them():
    trainer, _ = trained(Tiny(scheduler=Picky))
    assert trainer.global_steps_finished == 4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_optimizer_without_gradients_is_stepped_with_mixed_precision_too(dtype):
    def two(module):
        return [torch.optim.SGD(one.parameters(), lr=0.1) for one in (module.net, module.idle)]

    module = Tiny(optimizer=two)
    before, idle = module.net.weight.detach().clone(), module.idle.weight.detach().clone()
    trainer, _ = trained(module, backend="sp-amp", amp_dtype=dtype)
    assert trainer.global_steps_finished == 4
    assert not torch.equal(module.net.weight, before)
    assert torch.equal(module.idle.weight, idle)


def test_arguments_that_were_set_wrong_after_they_were_made_are_refused_by_trainer_and_training():
    arguments = TrainerArguments(device="cpu")
    arguments.train_batch_size = 0
    shelf = Shelf()
    with pytest.raises(ArgumentsError, match="train_batch_size"):
        Trainer(Tiny(), arguments, SingleProcess(), shelf)
    assert shelf.loads == 0
    arguments.train_batch_size = 8
    module = Tiny()
    trainer = Trainer(module, arguments, SingleProcess(), shelf)
    arguments.epochs = "3"
    with pytest.raises(ArgumentsError, match="epochs"):
        trainer.train()
    assert (module.steps, shelf.kept) == (0, [])


def test_arguments_that_were_set_wrong_after_they_were_made_are_refused_by_each_call_of_a_checkpointer(
    make_checkpointer, make_checkpoint
):
    checkpointer = make_checkpointer()
    checkpointer.args.period = 0
    for call in (
        lambda: checkpointer.save(make_checkpoint(1.0), 0),
        lambda: checkpointer.save_model({}, 0),
        checkpointer.load,
    ):
        with pytest.raises(ArgumentsError, match="period"):
            call()
