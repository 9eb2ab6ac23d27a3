"""Batches and steps: accumulation, leftovers, limits, clipping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from marlin_ckpt import AbstractCheckpointer, Checkpoint, ModuleInterface, Trainer, TrainerArguments


class Nothing(AbstractCheckpointer):
    """Keeps nothing and starts fresh."""

    def save(self, checkpoint_state, index, force=False):
        return None

    def load(self):
        return Checkpoint()


class Line(ModuleInterface):
    """Fits y = 3 x to `samples` points by plain gradient descent, in the data's own order."""

    def __init__(self, samples: int = 8, rate: float = 0.1):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.inputs = torch.arange(1, samples + 1, dtype=torch.float32)
        self.rate = rate
        self.sizes: list[int] = []
        self.weights: list[float] = []
        self.validated = torch.empty(0)
        self.estimate = None

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        self.estimate = estimated_global_steps_per_epoch
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]

    def get_train_dataloader(self, sampler, batch_size):
        return DataLoader(TensorDataset(self.inputs), batch_size)

    def get_val_dataloaders(self, sampler, batch_size):
        return DataLoader(TensorDataset(self.inputs), batch_size, sampler=sampler(self.inputs))

    def train_step(self, global_step, batch, device):
        self.sizes.append(len(batch[0]))
        return ((batch[0] * self.weight - batch[0] * 3) ** 2).mean() / 100

    def val_step(self, global_step, batch, device):
        return batch[0]

    def on_end_train_step(self, global_step, *outputs):
        self.weights.append(self.weight.item())

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        self.validated = outputs[0]


def _train(module: Line, **arguments) -> Trainer:
    arguments = {"device": "cpu", "clip_grads": False, **arguments}
    trainer = Trainer(module, TrainerArguments(**arguments), checkpointer=Nothing())
    trainer.train()
    return trainer


def _pymarlins_step_size(batch_size: int, limit: int) -> int:
    """The arithmetic of PyMarlin's `Trainer.train_step_batch_size`, pymarlin/core/trainer.py."""
    if batch_size > limit:
        if batch_size % limit == 0:
            return limit
        while batch_size > limit:
            batch_size //= 2
    return batch_size


@given(st.integers(1, 5000), st.integers(1, 5000))
@example(9, 3)
@example(33, 16)
def test_batch_sizes_under_a_limit_are_those_that_pymarlin_computes(batch_size, limit):
    arguments = TrainerArguments(
        train_batch_size=batch_size, gpu_batch_size_limit=limit, device="cpu", epochs=0
    )
    trainer = Trainer(Line(1), arguments, checkpointer=Nothing())
    step = _pymarlins_step_size(batch_size, limit)
    assert trainer.train_step_batch_size == step <= limit
    assert trainer.gradient_accumulation == batch_size // step


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_accumulated_gradients_give_the_weights_of_the_big_batch(limit):
    whole, parts = Line(16), Line(16)
    _train(whole, epochs=3, train_batch_size=8)
    _train(parts, epochs=3, train_batch_size=8, gpu_batch_size_limit=limit)
    assert set(whole.sizes) == {8}
    assert set(parts.sizes) == {limit}
    assert parts.weights == pytest.approx(whole.weights, rel=1e-5)
    assert len(parts.weights) == 6


@pytest.mark.parametrize("samples", [6, 10, 11])
def test_the_leftover_batches_of_an_epoch_give_the_weights_of_the_smaller_big_batch(samples):
    whole, parts = Line(samples), Line(samples)
    _train(whole, epochs=2, train_batch_size=4)
    _train(parts, epochs=2, train_batch_size=4, gpu_batch_size_limit=1)
    assert parts.weights == pytest.approx(whole.weights, rel=1e-5)


def test_leftover_batches_are_neither_dropped_nor_carried_over_into_the_next_epoch():
    module = Line(5)
    trainer = _train(module, epochs=3, train_batch_size=4, gpu_batch_size_limit=2)
    assert module.sizes == [2, 2, 1] * 3
    assert (trainer.global_steps_finished, trainer.total_steps_finished) == (6, 9)
    assert len(set(module.weights)) == 6
    assert module.weight.grad is None or not module.weight.grad.any()


@pytest.mark.parametrize(
    ("samples", "batch", "limit", "most"),
    [
        (8, 4, 4, None),
        (9, 4, 4, None),
        (9, 4, 1, None),
        (8, 8, 2, None),
        (3, 8, 2, None),
        (20, 2, 2, 3),
        (4, 2, 2, 9),
    ],
)
def test_the_estimated_steps_of_an_epoch_are_those_that_it_has(samples, batch, limit, most):
    module = Line(samples)
    arguments = {"train_batch_size": batch, "gpu_batch_size_limit": limit, "max_train_steps_per_epoch": most}
    trainer = _train(module, epochs=2, **arguments)
    assert trainer.global_steps_finished == 2 * module.estimate


def test_an_epoch_ends_after_the_given_number_of_optimizer_steps_and_not_of_batches():
    module = Line(32)
    trainer = _train(
        module, epochs=2, train_batch_size=4, gpu_batch_size_limit=2, max_train_steps_per_epoch=3
    )
    assert (trainer.global_steps_finished, trainer.total_steps_finished) == (6, 12)


def test_validation_ends_after_the_given_number_of_batches():
    module = Line(8)
    _train(module, val_batch_size=3, max_val_steps_per_epoch=2)
    assert module.validated.tolist() == [1, 2, 3, 4, 5, 6]


def test_validation_batches_are_not_cut_by_the_limit_of_the_device():
    module = Line(8)
    trainer = _train(module, val_batch_size=8, gpu_batch_size_limit=2, max_val_steps_per_epoch=1)
    assert trainer.val_step_batch_size == 8
    assert len(module.validated) == 8


def test_gradients_are_clipped_to_the_norm_of_the_whole_accumulated_gradient():
    module = Line(8, rate=1.0)
    arguments = {"train_batch_size": 8, "gpu_batch_size_limit": 2, "max_grad_norm": 0.25}
    _train(module, clip_grads=True, **arguments)
    assert module.weights == [pytest.approx(0.25)]


def test_gradients_below_the_norm_or_without_clipping_are_left_alone():
    free, clipped = Line(8), Line(8)
    _train(free, train_batch_size=8, max_grad_norm=1e-3, clip_grads=False)
    _train(clipped, train_batch_size=8, max_grad_norm=1e6, clip_grads=True)
    assert free.weights == clipped.weights
    assert free.weights[0] > 0.01


def test_every_optimizer_and_scheduler_is_stepped_once_for_each_optimizer_step():
    class Pair(Line):
        def __init__(self):
            super().__init__(8)
            self.shift = torch.nn.Parameter(torch.zeros(1))

        def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
            self.optimizers = [torch.optim.SGD([part], lr=0.1) for part in (self.weight, self.shift)]
            halve = torch.optim.lr_scheduler.StepLR
            return self.optimizers, [halve(one, step_size=1, gamma=0.5) for one in self.optimizers]

        def train_step(self, global_step, batch, device):
            return super().train_step(global_step, batch, device) + (self.shift - 1).square().mean()

    module = Pair()
    _train(module, train_batch_size=4, gpu_batch_size_limit=2)
    assert module.weight > 0
    assert module.shift > 0
    assert [one.param_groups[0]["lr"] for one in module.optimizers] == [pytest.approx(0.1 / 4)] * 2
