"""A run that is stopped and goes on is the run that was never stopped, wherever it was stopped."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from marlin_ckpt import (
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    Preempted,
    StateMismatchError,
    Trainer,
    TrainerArguments,
)
from marlin_ckpt.training.resume import rng
from marlin_ckpt.training.resume.leaves import how_different, leaves
from marlin_ckpt.training.resume.order import EpochSampler, Remaining
from tests.support.proven_modules import Careful, Points

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
    ],
    ids=["plain", "by step", "workers", "shuffle", "stream", "by epoch", "scaled", "deterministic"],
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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_batch_size": 4}, "train_batch_size was 8 and is 4"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"max_grad_norm": 2.0}, "max_grad_norm was 1.0 and is 2.0"),
    ],
)
def test_a_resume_under_other_conditions_is_announced_and_refused_when_it_must_be_exact(
    tmp_path, caplog, changes, says
):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()
    with pytest.raises(StateMismatchError, match=says) as caught:
        trainer_in(tmp_path, exact=True, **changes)
    assert "this resume will not be exact because" in str(caught.value)
    trainer_in(tmp_path, **changes)
    assert f"This resume will not be exact because {says}." in caplog.text


def test_other_data_and_another_torch_are_other_conditions(tmp_path, caplog, monkeypatch):
    class Fingerprinted(Careful):
        data_fingerprint = lambda self: self.told  # noqa: E731
        told = "one"

    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4), Fingerprinted).train()
    monkeypatch.setattr(Fingerprinted, "told", "two")
    monkeypatch.setattr(torch, "__version__", "9.9")
    trainer_in(tmp_path, module=Fingerprinted)
    assert "torch was 2" in caplog.text
    assert "and is 9.9; data_fingerprint was one and is two." in caplog.text


def test_a_seed_that_nobody_gave_is_kept(tmp_path):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4), seed=None).train()
    random.seed(5)
    torch.manual_seed(77)
    first = trainer_in(tmp_path, seed=None)
    assert first.seed == trainer_in(tmp_path, seed=None).seed


def test_an_optimizers_changed_rate_is_announced_since_the_saved_one_counts(tmp_path, caplog):
    class Faster(Careful):
        def get_optimizers_schedulers(self, steps, epochs):
            optimizers, schedulers = super().get_optimizers_schedulers(steps, epochs)
            optimizers[0].param_groups[0]["weight_decay"] = 0.5
            return optimizers, schedulers

    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()
    trainer = trainer_in(tmp_path, module=Faster)
    assert "optimizers[0].param_groups[0].weight_decay was 0.01 and is 0.5" in caplog.text
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.01


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


def test_a_checkpoint_without_random_numbers_resumes_with_a_word(tmp_path, caplog):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(6)).train()
    loaded = DefaultCheckpointer(DefaultCheckpointerArguments(load_dir=str(tmp_path))).load()
    del loaded.trainer_state["position"]
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path))).save(loaded, 5)
    assert trainer_in(tmp_path).global_steps_finished == 6
    assert "This resume will not be exact because the checkpoint holds no random numbers." in caplog.text


def wider(state):
    state["optimizers"][0]["state"][0]["exp_avg"] = torch.zeros(3, 3)
    state["optimizers"][0]["state"][1]["exp_avg_sq"] = torch.zeros(1)


def another_schedule(state):
    state["schedulers"][0]["gamma"] = state["schedulers"][0].pop("T_max")


def one_more_optimizer(state):
    state["optimizers"].append(state["optimizers"][0])


def incomplete(state):
    del state["schedulers"], state["optimizers"]


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        (
            wider,
            (
                "optimizers[0].state[0].exp_avg is (3, 3) in the file, (16, 5) here",
                "optimizers[0].state[1].exp_avg_sq is (1,) in the file, (16,) here",
            ),
        ),
        (
            another_schedule,
            (
                "schedulers[0] lacks T_max of CosineAnnealingLR",
                "schedulers[0] has gamma, CosineAnnealingLR has not",
            ),
        ),
        (one_more_optimizer, ("the checkpoint holds 2 optimizers, the module makes 1",)),
        (incomplete, ("optimizers is missing", "schedulers is missing")),
    ],
)
def test_a_state_that_does_not_fit_lists_all_that_differs_and_nothing_of_it_is_taken_over(
    tmp_path, change, differences
):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()
    state = DefaultCheckpointer(DefaultCheckpointerArguments(load_dir=str(tmp_path))).load().trainer_state
    trainer = trainer_in(tmp_path / "new")
    before = dict(leaves(trainer.get_state()))
    change(state)
    with pytest.raises(StateMismatchError) as caught:
        trainer.update_state(state)
    assert caught.value.differences == differences
    after = dict(leaves(trainer.get_state()))
    assert {key for key in before if how_different(before[key], after[key])} == set()


@pytest.mark.parametrize("exact", [False, True])
def test_where_the_trainers_state_does_not_fit_the_module_is_left_as_it_was(tmp_path, exact):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()

    class Other(Careful):
        def get_optimizers_schedulers(self, steps, epochs):
            if exact:  # fits, but is not the same run
                optimizers, schedulers = super().get_optimizers_schedulers(steps, epochs)
                optimizers[0].param_groups[0]["weight_decay"] = 0.5
                return optimizers, schedulers
            return [torch.optim.SGD(self.parameters()), torch.optim.SGD(self.parameters())], []

    module = Other()
    before = {name: one.clone() for name, one in module.state_dict().items()}
    with pytest.raises(StateMismatchError, match="weight_decay" if exact else "the module makes 2"):
        trainer_in(tmp_path, module=lambda: module, exact=exact)
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())


@pytest.mark.parametrize("keeps", [True, False])
def test_a_run_that_goes_on_says_when_its_loader_keeps_its_workers_over_epochs(tmp_path, caplog, keeps):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()

    class Persistent(Careful):
        def get_train_dataloader(self, sampler, batch_size):
            options = {"num_workers": 1, "persistent_workers": keeps}
            return DataLoader(self.data, batch_size, sampler=sampler(self.data), **options)

    trainer_in(tmp_path, module=Persistent).train()
    assert ("workers draw at random will not be" in caplog.text) is keeps
    assert caplog.text.count("persistent_workers") == keeps


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
