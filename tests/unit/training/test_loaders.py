"""Loaders of any kind, and none: how often they are made, what they are told, and what ends with them."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from marlin_ckpt import Trainer, TrainerArguments
from tests.support.tiny_module import Tiny, trained


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


def test_a_generator_that_a_loader_makes_is_closed_after_an_early_end_and_one_that_is_the_loader_goes_on():
    closed = []

    class Made:
        def __iter__(self):
            try:
                while True:
                    yield [torch.ones(8, 4)]
            finally:
                closed.append(True)

    fields = {"epochs": 2, "max_train_steps_per_epoch": 2, "max_val_steps_per_epoch": 3}
    trained(Tiny(train_loader=Made(), val_loaders=Made()), **fields)
    assert len(closed) == 4  # two epochs, each with a validation
    closed.clear()
    endless, checked = iter(Made()), iter(Made())
    module = Tiny(train_loader=endless, val_loaders=checked)
    assert trained(module, **fields)[0].global_steps_finished == 4
    assert closed == []
    assert len(next(endless)[0]) == 8
