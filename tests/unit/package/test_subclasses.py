"""What PyMarlin's users may derive from, use and override in Trainer and DefaultCheckpointer."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from marlin_ckpt import (
    Checkpoint,
    DefaultCheckpointer,
    ModuleInterface,
    Preempted,
    SingleProcess,
    Trainer,
    TrainerArguments,
)
from tests.support.folders import visible

TRAINER = """args checkpointer device estimated_global_steps_per_epoch get_state global_steps_finished
    gradient_accumulation last_epoch logger module optimizers save_checkpoint save_model_checkpoint schedulers
    seed total_steps_finished train train_epoch train_sampler train_step_batch_size trainer_backend
    update_state val_sampler val_step_batch_size validate"""
CHECKPOINTER = """args check_mk_dir check_space close get_latest_file is_due load logger overhead register
    removed run_id running save save_model take_reports usual_save_s wait"""
DATA = TensorDataset(torch.arange(8.0).reshape(8, 1))


class Module(ModuleInterface):
    """One weight; writes down what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.steps: list[tuple[int, int]] = []
        self.loaders: list[tuple[Any, int]] = []
        self.batches: list[int] = []
        self.finished: list[int] = []

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        self.steps.append((estimated_global_steps_per_epoch, epochs))
        return [torch.optim.SGD(self.parameters(), lr=0.01)], []

    def get_train_dataloader(self, sampler, batch_size):
        self.loaders.append((sampler, batch_size))
        return DataLoader(DATA, batch_size, sampler=sampler(DATA))

    def get_val_dataloaders(self, sampler, batch_size):
        return self.get_train_dataloader(sampler, batch_size)

    def train_step(self, global_step, batch, device):
        self.batches.append(len(batch[0]))
        return (self.weight * batch[0]).mean()

    def val_step(self, global_step, batch, device):
        return batch[0]

    def on_end_train(self, global_step):
        self.finished.append(global_step)


def _train(kind: type[Trainer], checkpointer: Any, **fields: Any) -> tuple[Trainer, Module]:
    module = Module()
    arguments = TrainerArguments(**{"epochs": 1, "train_batch_size": 4, "use_gpu": False, **fields})
    trainer = kind(module, arguments, SingleProcess(), checkpointer)
    trainer.train()
    return trainer, module


def test_a_trainer_and_a_checkpointer_have_the_public_attributes_that_they_always_had(make_checkpointer):
    checkpointer = make_checkpointer()
    trainer, _ = _train(Trainer, checkpointer)
    assert {*TRAINER.split()} <= {*dir(trainer)}
    assert {*CHECKPOINTER.split()} <= {*dir(checkpointer)}


class Resized(Trainer):
    train_step_batch_size = property(lambda self: 1)
    gradient_accumulation = property(lambda self: 2)
    val_step_batch_size = property(lambda self: 5)
    train_sampler = property(lambda self: SequentialSampler)
    val_sampler = property(lambda self: torch.utils.data.RandomSampler)


def test_sizes_and_samplers_that_a_subclass_decides_are_those_that_are_trained_with(make_checkpointer):
    _, module = _train(Resized, make_checkpointer())
    assert module.steps == [(4, 1)]
    assert (module.batches, module.finished) == ([1] * 8, [4])
    assert module.loaders[-2:] == [(SequentialSampler, 1), (torch.utils.data.RandomSampler, 5)]


class Estimating(Trainer):
    estimated_global_steps_per_epoch = property(lambda self: 77)


def test_a_number_of_steps_that_a_subclass_estimates_is_told_to_the_module(make_checkpointer):
    _, module = _train(Estimating, make_checkpointer())
    assert module.steps == [(77, 1)]


class Counting(Trainer):
    """Counts the steps of an earlier run too."""

    @property
    def global_steps_finished(self) -> int:
        return super().global_steps_finished + 100


def test_the_steps_that_a_subclass_counts_are_the_index_and_what_callbacks_are_told(make_checkpointer):
    checkpointer = make_checkpointer()
    _, module = _train(Counting, checkpointer, index_by="step")
    assert module.finished == [102]
    assert "model_102.pt" in visible(checkpointer.args.save_dir)


class Noting(Trainer):
    """Writes down what is called, does it, and keeps a state of its own."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        self.noted: list[str] = []
        self.own = 0
        super().__init__(*args, **fields)

    def train_epoch(self):
        self.noted.append("train_epoch")
        return super().train_epoch()

    def validate(self):
        self.noted.append("validate")
        return super().validate()

    def save_checkpoint(self, force=False):
        self.noted.append("forced save" if force else "save")
        return super().save_checkpoint(force)

    def save_model_checkpoint(self):
        self.noted.append("save_model")
        super().save_model_checkpoint()

    def get_state(self):
        return {**super().get_state(), "own": self.own + 1}

    def update_state(self, state):
        super().update_state(state)
        self.own = (state or {}).get("own", 0)


def test_what_a_subclass_overrides_is_called_at_its_time(make_checkpointer):
    trainer, _ = _train(Noting, make_checkpointer(), epochs=2)
    epoch = ["train_epoch", "validate", "save"]
    assert trainer.noted == [*epoch, *epoch, "forced save", "save_model"]


def test_a_state_that_a_subclass_adds_is_saved_and_handed_back(make_checkpointer):
    checkpointer = make_checkpointer()
    assert _train(Noting, checkpointer)[0].own == 0
    assert _train(Noting, checkpointer, epochs=2)[0].own == 1


class Interrupted(Module):
    """Is sent a signal in its second training step."""

    def train_step(self, global_step, batch, device):
        if global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().train_step(global_step, batch, device)


def test_the_save_that_a_signal_asks_for_and_the_one_that_is_due_by_the_clock_are_the_subclasss(
    make_checkpointer,
):
    arguments = TrainerArguments(epochs=1, train_batch_size=4, use_gpu=False, checkpoint_every_minutes=1e-9)
    trainer = Noting(Interrupted(), arguments, SingleProcess(), make_checkpointer())
    with pytest.raises(Preempted):
        trainer.train()
    # After each step by the clock; the second of these holds what the signal asks for.
    assert trainer.noted == ["train_epoch", "forced save", "forced save"]


def test_a_checkpointer_that_replaces_the_first_one_is_the_one_that_saves(make_checkpointer, tmp_path):
    first, second = (
        make_checkpointer(),
        make_checkpointer(save_dir=str(tmp_path / "second"), model_state_save_dir=None),
    )
    arguments = TrainerArguments(epochs=1, train_batch_size=4, use_gpu=False)
    trainer = Trainer(Module(), arguments, SingleProcess(), first)
    trainer.checkpointer = second
    trainer.train()
    assert not os.path.exists(first.args.save_dir)
    assert "model_0.pt" in visible(tmp_path / "second")


class Careful(DefaultCheckpointer):
    """Saves odd indices only, in directories that it makes and writes down, and knows what a save takes."""

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        self.made: list[str] = []

    def is_due(self, index):
        return index % 2 == 1

    def check_mk_dir(self, dirpath):
        self.made.append(os.path.basename(dirpath))
        super().check_mk_dir(dirpath)

    def usual_save_s(self):
        return 1e6


def test_when_and_where_a_derived_checkpointer_saves_is_its_own_decision(make_checkpointer, caplog):
    checkpointer = Careful(make_checkpointer(model_state_save_dir=None).args)
    _train(Trainer, checkpointer, epochs=4)
    assert visible(checkpointer.args.save_dir) == ["model_1.pt", "model_3.pt"]
    assert checkpointer.made == ["checkpoints"] * 2
    assert "A save took 1000000 s the last time" in caplog.text


class Wrapping(DefaultCheckpointer):
    """Keeps a note beside each state, and takes it away again."""

    def save(self, checkpoint_state, index, force=False):
        state = {"note": "own", "state": checkpoint_state.module_interface_state}
        return super().save(
            Checkpoint(state, checkpoint_state.trainer_state, checkpoint_state.trainer_backend_state),
            index,
            force,
        )

    def load(self):
        loaded = super().load()
        if loaded.module_interface_state:
            assert loaded.module_interface_state["note"] == "own"
            loaded.module_interface_state = loaded.module_interface_state["state"]
        return loaded


def test_a_trainer_goes_on_with_what_a_derived_checkpointer_makes_of_a_file(make_checkpointer):
    arguments = make_checkpointer().args
    _, first = _train(Trainer, Wrapping(arguments))
    trainer, second = _train(Trainer, Wrapping(arguments), epochs=2)
    assert (trainer.last_epoch, len(second.batches)) == (1, len(first.batches))
