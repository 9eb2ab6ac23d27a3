"""A run that goes on is the run that was never stopped; a state that does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from marlin_ckpt import (
    AbstractCheckpointer,
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    ModuleInterface,
    StateMismatchError,
    Trainer,
    TrainerArguments,
    UnsafeCheckpointError,
)

EPOCHS = 4


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    """Model files go to `checkpoints` under the working directory unless told otherwise."""
    monkeypatch.chdir(tmp_path)


class Net(ModuleInterface):
    """A small network on fixed data in its own order: two runs differ only in what was loaded."""

    def __init__(self, width: int = 6, optimizers: int = 1, schedulers: int = 1, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
        )
        self.counts = (optimizers, schedulers)
        self.asked: list[tuple[int, int]] = []
        self.epochs_begun: list[int] = []
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(20, 3, generator=generator)
        self.data = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        self.asked.append((estimated_global_steps_per_epoch, epochs))
        optimizers = [torch.optim.AdamW(self.parameters(), lr=0.01) for _ in range(self.counts[0])]
        total = max(1, estimated_global_steps_per_epoch * epochs)
        one_cycle = torch.optim.lr_scheduler.OneCycleLR
        return optimizers, [one_cycle(optimizers[0], 0.05, total_steps=total) for _ in range(self.counts[1])]

    def get_train_dataloader(self, sampler, batch_size):
        return DataLoader(self.data, batch_size)

    def get_val_dataloaders(self, sampler, batch_size):
        return DataLoader(self.data, batch_size)

    def train_step(self, global_step, batch, device):
        return torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])

    def val_step(self, global_step, batch, device):
        return self.train_step(global_step, batch, device)

    def on_begin_train_epoch(self, global_step, epoch):
        self.epochs_begun.append(epoch)


def _arguments(**fields) -> TrainerArguments:
    return TrainerArguments(**{"epochs": EPOCHS, "train_batch_size": 4, "device": "cpu", **fields})


def _checkpointer(directory: Path, **fields) -> DefaultCheckpointer:
    return DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(directory), **fields))


def _load(directory: Path, index: int) -> Checkpoint:
    return _checkpointer(directory, load_dir=str(directory), load_filename=f"model_{index}.pt").load()


def _same(left: Any, right: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(left, torch.Tensor):
        same_kind = left.dtype == right.dtype and left.shape == right.shape
        return same_kind and left.numpy().tobytes() == right.numpy().tobytes()
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    return repr(left) == repr(right)


@pytest.fixture
def whole_run(tmp_path) -> Path:
    """The directory of a run that was never stopped."""
    Trainer(Net(), _arguments(), checkpointer=_checkpointer(tmp_path / "whole")).train()
    return tmp_path / "whole"


@pytest.mark.parametrize("last", range(EPOCHS - 1))
def test_a_run_resumed_at_an_epochs_border_is_bit_for_bit_the_run_that_was_never_stopped(
    whole_run, tmp_path, last
):
    module = Net(seed=99)
    resumed = {"load_dir": str(whole_run), "load_filename": f"model_{last}.pt"}
    Trainer(module, _arguments(), checkpointer=_checkpointer(tmp_path / "resumed", **resumed)).train()
    assert module.epochs_begun == list(range(last + 1, EPOCHS))
    for epoch in range(last + 1, EPOCHS):
        expected, got = _load(whole_run, epoch), _load(tmp_path / "resumed", epoch)
        assert _same(got.payload(), expected.payload())
        assert got.metrics == expected.metrics


def test_construction_hands_the_three_states_back_bit_for_bit(whole_run):
    saved = _load(whole_run, 2)
    module = Net(seed=99)
    latest = _checkpointer(whole_run, load_dir=str(whole_run), load_filename="model_2.pt")
    trainer = Trainer(module, _arguments(), checkpointer=latest)
    assert trainer.last_epoch == 2
    assert _same(module.get_state(), saved.module_interface_state)
    assert _same(trainer.get_state(), saved.trainer_state)
    assert saved.trainer_state["optimizers"][0]["state"][0]["exp_avg"].any()
    assert trainer.trainer_backend.get_state() == {"global_step_completed": 15, "batches_completed": 15}


def test_more_epochs_continue_a_finished_run_where_it_ended(whole_run):
    module = Net(schedulers=0)
    Trainer(module, _arguments(epochs=2), checkpointer=_checkpointer(whole_run / "again")).train()
    module = Net(schedulers=0, seed=99)
    again = _checkpointer(whole_run / "again", load_dir=str(whole_run / "again"))
    trainer = Trainer(module, _arguments(epochs=3), checkpointer=again)
    trainer.train()
    assert module.epochs_begun == [2]
    assert trainer.global_steps_finished == 15


def test_resuming_a_finished_run_trains_nothing_and_keeps_what_its_last_checkpoint_says(whole_run):
    before = _load(whole_run, EPOCHS - 1)
    module = Net(seed=99)
    Trainer(module, _arguments(), checkpointer=_checkpointer(whole_run, load_dir=str(whole_run))).train()
    after = _load(whole_run, EPOCHS - 1)
    assert module.epochs_begun == []
    assert _same(after.payload(), before.payload())
    assert after.metrics == before.metrics
    assert before.metrics.keys() == {"train_loss"}


def test_reset_makes_new_optimizers_for_the_epochs_that_are_left_and_keeps_the_rest(whole_run):
    module = Net(seed=99)
    latest = _checkpointer(whole_run, load_dir=str(whole_run), load_filename="model_1.pt")
    trainer = Trainer(module, _arguments(reset_optimizers_schedulers=True), checkpointer=latest)
    assert trainer.last_epoch == 1
    assert module.asked[-1] == (5, EPOCHS - 2)
    assert trainer.get_state()["optimizers"][0]["state"] == {}
    assert trainer.get_state()["schedulers"][0]["total_steps"] == 10
    assert _same(module.get_state(), _load(whole_run, 1).module_interface_state)
    trainer.train()
    assert module.epochs_begun == [2, 3]


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        (lambda: Net(optimizers=2), ["1 optimizers", "makes 2"]),
        (lambda: Net(schedulers=0), ["1 schedulers", "makes 0"]),
        (lambda: Net(width=7), ["module", "layers.0.weight", "(6, 3)", "(7, 3)"]),
    ],
)
def test_a_state_of_another_number_or_shape_is_refused_saying_which(whole_run, module, parts):
    latest = _checkpointer(whole_run, load_dir=str(whole_run))
    with pytest.raises(StateMismatchError) as caught:
        Trainer(module(), _arguments(), checkpointer=latest)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert caught.value.exit_code == 1


def test_an_optimizer_of_other_parameters_is_refused(whole_run):
    class Frozen(Net):
        def parameters(self, recurse=True):
            return self.layers[0].parameters(recurse)

    latest = _checkpointer(whole_run, load_dir=str(whole_run))
    with pytest.raises(StateMismatchError, match=r"does not fit the trainer: .*groups of \[4\] parameters"):
        Trainer(Frozen(), _arguments(), checkpointer=latest)


class Given(AbstractCheckpointer):
    """Loads what it was made with."""

    def __init__(self, **states):
        self.checkpoint = Checkpoint(**states)

    def save(self, checkpoint_state, index, force=False):
        return None

    def load(self):
        return self.checkpoint


@pytest.mark.parametrize(
    ("states", "owner"),
    [
        ({"module_interface_state": {"other": torch.zeros(1)}}, "module"),
        ({"module_interface_state": 5}, "module"),
        ({"trainer_state": {"epoch": 3}}, "trainer"),
        ({"trainer_state": {"last_epoch": 1}}, "trainer"),
        ({"trainer_state": {"last_epoch": 1, "optimizers": [5], "schedulers": [{}]}}, "trainer"),
        ({"trainer_state": {"last_epoch": 1, "optimizers": [{}], "schedulers": [{}]}}, "trainer"),
        ({"trainer_state": [1]}, "trainer"),
        ({"trainer_backend_state": {"steps": 3}}, "trainer backend"),
    ],
)
def test_a_state_of_another_make_is_refused_naming_whose_it_is(states, owner):
    with pytest.raises(StateMismatchError, match=f"does not fit the {owner}:"):
        Trainer(Net(), _arguments(), checkpointer=Given(**states))


def test_a_checkpoint_of_the_module_alone_starts_a_new_run_from_its_weights():
    weights = Net(seed=5).get_state()
    module = Net(seed=6)
    trainer = Trainer(module, _arguments(), checkpointer=Given(module_interface_state=weights))
    assert _same(module.get_state(), weights)
    assert (trainer.last_epoch, trainer.global_steps_finished) == (-1, 0)


class TrainerWithArguments(Trainer):
    """The subclass of PyMarlin's document on checkpointing: "Adding something else we want to save"."""

    def get_state(self):
        return {**super().get_state(), "args": self.args}

    def update_state(self, state):
        super().update_state(state)
        self.earlier = state["args"] if state else None


def test_a_subclass_may_save_its_arguments_as_well_which_then_need_weights_only_false(tmp_path):
    directory = {"load_dir": str(tmp_path)}
    first = TrainerWithArguments(Net(), _arguments(epochs=1), checkpointer=_checkpointer(tmp_path))
    first.train()
    with pytest.raises(UnsafeCheckpointError) as caught:
        TrainerWithArguments(Net(), _arguments(), checkpointer=_checkpointer(tmp_path, **directory))
    assert "marlin_ckpt.arguments.TrainerArguments" in caught.value.names
    trusting = _checkpointer(tmp_path, weights_only=False, **directory)
    second = TrainerWithArguments(Net(), _arguments(epochs=2), checkpointer=trusting)
    assert (second.last_epoch, second.earlier) == (0, first.args)
