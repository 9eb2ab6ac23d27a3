"""Optimizers, schedulers and loaders of any kind: they train, or are refused before any work is done."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from marlin_ckpt import (
    AbstractCheckpointer,
    ArgumentsError,
    Checkpoint,
    ModuleInterface,
    SingleProcess,
    Trainer,
    TrainerArguments,
    TrainingError,
)


class Shelf(AbstractCheckpointer):
    def __init__(self):
        self.kept = []
        self.loads = 0

    def save(self, checkpoint_state, index, force=False):
        self.kept.append((index, checkpoint_state))

    def load(self):
        self.loads += 1
        return Checkpoint()


class Tiny(ModuleInterface):
    """A line through 32 points; what is odd about a module is handed in."""

    def __init__(self, optimizer=None, scheduler=None, train_loader="own", val_loaders="own", metrics=None):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
        self.idle = torch.nn.Linear(4, 1)
        self.data = TensorDataset(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)))
        self.kinds = optimizer, scheduler
        self.loaders = train_loader, val_loaders
        self.metrics = list(metrics or [])
        self.steps, self.validated = 0, []

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        optimizer, scheduler = self.kinds
        made = [torch.optim.SGD(self.net.parameters(), lr=1.0)] if optimizer is None else optimizer(self)
        self.optimizer = made[0]
        return made, [] if scheduler is None else [scheduler(made[0])]

    def get_train_dataloader(self, sampler, batch_size):
        own = DataLoader(self.data, batch_size=batch_size, sampler=sampler(self.data))
        return own if self.loaders[0] == "own" else self.loaders[0]

    def get_val_dataloaders(self, sampler, batch_size):
        own = DataLoader(self.data, batch_size=batch_size, sampler=sampler(self.data))
        return own if self.loaders[1] == "own" else self.loaders[1]

    def train_step(self, global_step, batch, device):
        self.steps += 1
        return self.net(batch[0]).square().mean()

    def val_step(self, global_step, batch, device):
        return batch[0]

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        self.validated.append(key)

    def get_metrics(self):
        return self.metrics.pop(0) if self.metrics else {}


def trained(module, **fields):
    shelf = Shelf()
    arguments = {"epochs": 1, "train_batch_size": 8, "val_batch_size": 8, "device": "cpu", **fields}
    trainer = Trainer(module, TrainerArguments(**arguments), checkpointer=shelf)
    trainer.train()
    return trainer, shelf


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


def test_without_validation_data_nothing_is_validated_and_all_is_trained_and_saved():
    module = Tiny(val_loaders=None)
    trainer, shelf = trained(module, epochs=2)
    assert (module.steps, module.validated) == (8, [])
    assert shelf.kept[-1][0] == 1
    assert trainer.validate() == []


def test_of_several_validation_loaders_those_that_are_none_are_passed_over():
    loader = DataLoader(torch.ones(4))
    module = Tiny(val_loaders={"near": None, "far": loader})
    trained(module)
    assert module.validated == ["far"]


@pytest.mark.parametrize("index_by", ["epoch", "step"])
def test_without_training_data_each_epoch_is_validated_and_saved(index_by):
    module = Tiny(train_loader=None)
    trainer, shelf = trained(module, epochs=2, index_by=index_by)
    assert (module.steps, module.validated) == (0, ["default"] * 2)
    assert shelf.kept[-1][1].trainer_state["last_epoch"] == 1
    assert trainer.global_steps_finished == 0


def test_an_epoch_without_a_batch_ends_well_without_a_loss():
    module = Tiny(train_loader=DataLoader(torch.ones(4), batch_size=8, drop_last=True))
    trainer, shelf = trained(module, epochs=2)
    assert [index for index, _ in shelf.kept] == [0, 1, 1]
    assert "train_loss" not in shelf.kept[-1][1].metrics
    assert trainer.global_steps_finished == 0


class Stream(IterableDataset):
    def __init__(self):
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        return iter([torch.ones(4)] * 8)


class Sampler(RandomSampler):
    def __init__(self, data):
        super().__init__(data)
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


class Batches(BatchSampler):
    def __init__(self, sampler):
        super().__init__(sampler, 8, drop_last=False)
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def test_the_epoch_is_told_to_a_stream_a_sampler_and_a_sampler_of_batches_once_each():
    stream, sampler = Stream(), Sampler(torch.ones(16, 4))
    batches = Batches(Sampler(torch.ones(16, 4)))
    for told, loader in (
        ([stream], DataLoader(stream, batch_size=8)),
        ([sampler], DataLoader(torch.ones(16, 4), batch_size=8, sampler=sampler)),
        ([batches, batches.sampler], DataLoader(torch.ones(16, 4), batch_sampler=batches)),
    ):
        module = Tiny(train_loader=loader)
        module.train_step = lambda global_step, batch, device: module.net(batch).square().mean()  # noqa: B023
        trained(module, epochs=3, max_train_steps_per_epoch=1)
        assert [one.epochs for one in told] == [[0, 1, 2]] * len(told)


class Loaders(Tiny):
    """Counts what it is asked to make."""

    def __init__(self):
        super().__init__()
        self.made = {"loaders": 0, "optimizers": 0}

    def get_train_dataloader(self, sampler, batch_size):
        self.made["loaders"] += 1
        return super().get_train_dataloader(sampler, batch_size)

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        self.made["optimizers"] += 1
        return super().get_optimizers_schedulers(estimated_global_steps_per_epoch, epochs)


@pytest.mark.parametrize("fields", [{}, {"reset_optimizers_schedulers": True}, {"exact": True}])
@pytest.mark.parametrize("index_by", ["epoch", "step"])
def test_a_loader_is_made_for_each_epoch_and_once_for_their_length_and_optimizers_once(
    make_checkpointer, fields, index_by
):
    arguments = {"train_batch_size": 8, "device": "cpu", "seed": 1, "index_by": index_by}
    first = Loaders()
    Trainer(first, TrainerArguments(epochs=2, **arguments), checkpointer=make_checkpointer()).train()
    assert first.made == {"loaders": 3, "optimizers": 1}
    second = Loaders()
    again = TrainerArguments(epochs=3, **arguments, **fields)
    trainer = Trainer(second, again, checkpointer=make_checkpointer())
    trainer.train()
    assert second.made == {"loaders": 2, "optimizers": 1}
    assert trainer.optimizers[0] is second.optimizer
    assert trainer.global_steps_finished == 12


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
