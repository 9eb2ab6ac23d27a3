"""A run that is stopped and goes on is the run that was never stopped, wherever it was stopped."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from marlin_ckpt import (
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    Preempted,
)
from marlin_ckpt.training.resume import rng
from marlin_ckpt.training.resume.order import EpochSampler, Remaining
from tests.support.proven_modules import Careful, Points
from tests.support.stopped_runs import STEPS, StopsAt, assert_same, trainer_in


@pytest.mark.parametrize(
    ("args", "fields", "checkpointer"),
    [
        ({}, {}, {}),
        ({}, {"index_by": "step"}, {"period": 4, "async_save": True}),
        ({"fused": True, "workers": 2}, {"gpu_batch_size_limit": 4}, {}),
        ({"loader": "shuffle"}, {"max_train_steps_per_epoch": 4}, {}),
        ({"loader": "stream"}, {"max_train_steps_per_epoch": 6}, {"async_save": True}),
        ({"schedule": "epoch"}, {"step_schedulers_by": "epoch", "backend": "sp-amp"}, {}),
        ({"foreach": True}, {"backend": "sp-amp", "amp_dtype": "float16"}, {}),
        ({}, {"deterministic": True, "clip_grads": False}, {}),
        ({"trained_from": 1}, {"max_grad_norm": 0.1}, {}),
    ],
    ids=["plain", "by step", "workers", "shuffle", "stream", "by epoch", "scaled", "deterministic", "partly"],
)
def test_stopped_at_many_steps_twice_in_an_epoch_it_ends_as_if_never_stopped(
    tmp_path, args, fields, checkpointer
):
    straight = StopsAt()
    whole = trainer_in(tmp_path / "whole", straight, lambda: Careful(**args), checkpointer, **fields)
    whole.train()
    losses = []
    for stop in (1, 4, 5, 6, 9, 11):
        observer = StopsAt(stop)
        trainer = trainer_in(tmp_path / "cut", observer, lambda: Careful(**args), checkpointer, **fields)
        with pytest.raises(Preempted) as caught:
            trainer.train()
        assert caught.value.code == 143
        losses += observer.losses
    observer = StopsAt()
    cut = trainer_in(tmp_path / "cut", observer, lambda: Careful(**args), checkpointer, **fields)
    cut.train()
    assert losses + observer.losses == straight.losses
    assert observer.metrics == straight.metrics
    assert_same(whole, cut)
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_stateful_loader_goes_on_by_its_own_state(tmp_path, workers):
    def made():
        return Careful(loader="stateful", workers=workers)

    straight = StopsAt()
    whole = trainer_in(tmp_path / "whole", straight, made)
    whole.train()
    losses = []
    for stop in (2, 4, 6, 7):
        observer = StopsAt(stop)
        with pytest.raises(Preempted):
            trainer_in(tmp_path / "cut", observer, made).train()
        losses += observer.losses
    observer = StopsAt()
    cut = trainer_in(tmp_path / "cut", observer, made)
    cut.train()
    losses += observer.losses
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    if workers == 0:  # a worker's random numbers are the loader's affair, and it does not keep them
        assert losses == straight.losses
        assert_same(whole, cut)


def test_python_numpy_and_torch_go_on_drawing_where_they_were():
    torch.manual_seed(1)
    before = rng.states()
    drawn = [random.random(), np.random.rand(), torch.rand(3)]  # noqa: NPY002
    assert rng.restore(before) == []
    again = [random.random(), np.random.rand(), torch.rand(3)]  # noqa: NPY002
    assert repr(drawn) == repr(again)


class Elsewhere(torch.Tensor):
    """One that, like those on a device, is given to NumPy by way of the CPU alone."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def numpy(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_states_that_were_loaded_to_a_device_are_restored():
    saved = rng.states()
    drawn = [np.random.rand(), torch.rand(3)]  # noqa: NPY002
    there = torch.utils._pytree.tree_map_only(torch.Tensor, lambda one: one.as_subclass(Elsewhere), saved)
    assert rng.restore(there) == []
    assert repr([np.random.rand(), torch.rand(3)]) == repr(drawn)  # noqa: NPY002


def test_the_order_of_the_data_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, skip=0):
        sampler = EpochSampler(range(1000))
        sampler.seed, sampler.epoch, sampler.skip = seed, epoch, skip
        torch.rand(1)
        return list(sampler)

    assert sorted(order(1, 0)) == list(range(1000))
    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0, 300) == order(1, 0)[300:]


def test_batches_that_were_done_are_not_read_again(tmp_path):
    class Reading(Careful):
        def __init__(self):
            super().__init__()
            self.read: list[int] = []
            data, read = self.data, self.read

            class Noting(type(data)):
                def __getitem__(self, index):
                    read.append(index)
                    return super().__getitem__(index)

            self.data = Noting()

    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4), Reading).train()
    trainer = trainer_in(tmp_path, StopsAt(5), Reading)
    with pytest.raises(Preempted):
        trainer.train()
    assert len(trainer.module.read) == 8  # the fifth step's, and not the 32 before


def test_a_seed_that_nobody_gave_is_kept(tmp_path):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4), seed=None).train()
    random.seed(5)
    torch.manual_seed(77)
    first = trainer_in(tmp_path, seed=None)
    assert first.seed == trainer_in(tmp_path, seed=None).seed


def test_every_minutes_it_is_saved_also_within_an_epoch_under_the_epoch_that_is_under_way(tmp_path):
    observer = StopsAt()
    trainer_in(tmp_path, observer, checkpoint_every_minutes=1e-9).train()
    assert observer.saved[:5] == ["model_0.pt"] * 5
    assert sorted(set(observer.saved)) == ["model_0.pt", "model_1.pt", "model_2.pt"]


def test_counted_by_steps_files_carry_global_steps_and_the_last_one_is_always_saved(tmp_path):
    observer = StopsAt()
    trainer_in(tmp_path, observer, checkpointer={"period": 5}, index_by="step").train()
    assert observer.saved == ["model_5.pt", "model_10.pt", "model_15.pt", "model_18.pt"]


def test_a_checkpoint_within_an_epoch_has_no_metrics_of_an_earlier_one(tmp_path):
    observer = StopsAt()
    trainer = trainer_in(tmp_path, observer, checkpointer={"period": 5}, index_by="step")
    trainer.train()
    loader = DefaultCheckpointerArguments(load_dir=str(tmp_path), load_filename="model_10.pt")
    assert DefaultCheckpointer(loader).load().metrics in (None, {})
    loader.load_filename = "model_18.pt"
    assert DefaultCheckpointer(loader).load().metrics.keys() == {"train_loss", "val_loss"}


def test_an_epoch_that_goes_on_begins_where_it_was(tmp_path):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(8)).train()
    observer = StopsAt(9)
    with pytest.raises(Preempted):
        trainer_in(tmp_path, observer).train()
    assert observer.began == (1, 2)


def drawn(workers: int, done: int = 0) -> list[float]:
    """The sums of the batches that are left of an epoch, whose samples the workers move at random."""
    data = Points()
    loader = DataLoader(data, 4, sampler=EpochSampler(data), num_workers=workers)
    remaining = Remaining(loader, seed=1, epoch=0, done=done)
    return [float(inputs.double().sum()) for inputs, _ in remaining]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_draw_the_same_for_a_batch_wherever_a_run_goes_on_and_however_many_they_are(workers):
    whole = drawn(2)
    assert len(set(whole)) == 11
    for done in (0, 1, 4, 5, 10, 11):
        assert drawn(workers, done) == whole[done:]
