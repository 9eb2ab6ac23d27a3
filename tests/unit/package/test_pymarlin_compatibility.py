"""What is written for PyMarlin runs after its imports were changed.

The first half ports PyMarlin's own tests/core/test_trainer.py; the second runs what its documents show.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from marlin_ckpt import (
    AbstractCheckpointer,
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    ModuleInterface,
    SingleProcess,
    Trainer,
    TrainerArguments,
)
from tests.support.folders import visible


class PicklableMock(mock.MagicMock):
    """PyMarlin's: it pickles as a plain mock."""

    def __reduce__(self):
        return (mock.MagicMock, ())


def _mocks() -> tuple[PicklableMock, PicklableMock]:
    backend, module = PicklableMock(), PicklableMock()
    module.get_optimizers_schedulers.return_value = [PicklableMock()] * 2
    module.get_state.return_value = {}
    backend.get_state.return_value = {}
    return backend, module


@pytest.fixture
def arguments(tmp_path) -> TrainerArguments:
    checkpointer = DefaultCheckpointerArguments(
        checkpoint=False,
        delete_existing_checkpoints=False,
        period=1,
        save_dir=os.path.join(tmp_path, "save_dir"),
        model_state_save_dir=os.path.join(tmp_path, "model_save_dir"),
        load_dir=os.path.join(tmp_path, "load_dir"),
        file_prefix="test",
        file_ext="tar",
    )
    return TrainerArguments(
        train_batch_size=6,
        gpu_batch_size_limit=1000,
        val_batch_size=8,
        epochs=3,
        checkpointer_args=checkpointer,
    )


def _trainer(arguments: TrainerArguments) -> tuple[Trainer, mock.MagicMock, mock.MagicMock]:
    backend, module = _mocks()
    return Trainer(trainer_backend=backend, module=module, args=arguments), backend, module


def test_a_mock_module_and_backend_make_a_trainer_that_keeps_them(arguments):
    trainer, backend, module = _trainer(arguments)
    assert (trainer.module, trainer.trainer_backend) == (module, backend)
    assert backend.init.call_args.args[0].model is module


@pytest.mark.parametrize(("limit", "size", "accumulation"), [(1000, 6, 1), (3, 3, 2)])
def test_the_sizes_of_steps_are_pymarlins(arguments, limit, size, accumulation):
    arguments.gpu_batch_size_limit = limit
    trainer, _, _ = _trainer(arguments)
    assert (trainer.train_step_batch_size, trainer.gradient_accumulation) == (size, accumulation)
    assert trainer.val_step_batch_size == 8


def test_a_mock_module_is_trained_for_each_epoch(arguments):
    trainer, backend, module = _trainer(arguments)
    trainer.train()
    counted = [backend.train_dl, backend.validate_dl, module.get_val_dataloaders]
    counted += [module.on_end_train_epoch, module.on_end_val_epoch]
    assert [method.call_count for method in counted] == [3] * 5
    assert module.on_end_train.call_count == 1


def test_validate_runs_the_validation_alone(arguments):
    trainer, backend, module = _trainer(arguments)
    trainer.validate()
    counted = [module.get_val_dataloaders, backend.validate_dl, module.on_end_val_epoch]
    assert [method.call_count for method in counted] == [1] * 3
    assert module.on_end_train.call_count == 0


def test_the_estimate_of_steps_is_the_one_that_will_be_run(arguments):
    # PyMarlin's estimate is one higher where the batches divide evenly: its scheduler never quite ends.
    arguments.train_batch_size, arguments.gpu_batch_size_limit = 4, 1
    trainer, _, module = _trainer(arguments)
    module.get_train_dataloader.return_value = [0] * 100
    assert trainer.estimated_global_steps_per_epoch == 25


def _counted(directory: str) -> int:
    return len([name for name in os.listdir(directory) if name.endswith("tar")])


def test_saved_files_are_counted_as_in_pymarlins_test_of_save_checkpoint(arguments):
    checkpointer = arguments.checkpointer_args
    checkpointer.checkpoint = True

    def files_after_training(epochs: int) -> tuple[int, int, int]:
        arguments.epochs = epochs
        trainer, _, module = _trainer(arguments)
        trainer.train()
        epochs_run = module.on_end_train_epoch.call_count
        return epochs_run, _counted(checkpointer.save_dir), _counted(checkpointer.model_state_save_dir)

    assert files_after_training(3) == (3, 3, 1)
    # load_dir is another folder, so that all four epochs are run.
    assert files_after_training(4) == (4, 4, 2)
    checkpointer.load_dir = checkpointer.save_dir
    assert files_after_training(5) == (1, 5, 3)


class SquaresData(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, idx):
        x = torch.tensor([idx / 12.0])
        return x, 2 * x


class SquaresModule(ModuleInterface):
    """As PyMarlin's examples write one: annotations, a sampler class, keyword names and all."""

    def __init__(self, data_interface: Dataset, lr: float = 0.1):
        super().__init__()
        self.data_interface = data_interface
        self.lr = lr
        self.net = torch.nn.Linear(1, 1)
        self.sampled: list[object] = []
        self.epoch_losses: list[float] = []
        self.val_losses: dict[str, float] = {}

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch: int, epochs: int):
        optimizer = torch.optim.Adam(self.net.parameters(), lr=self.lr)
        total = estimated_global_steps_per_epoch * epochs
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: max(0.0, 1 - step / (total + 1))
        )
        return [optimizer], [scheduler]

    def get_train_dataloader(self, sampler: type, batch_size: int):
        self.sampled.append(sampler(self.data_interface))
        return DataLoader(self.data_interface, batch_size=batch_size, sampler=self.sampled[-1])

    def get_val_dataloaders(self, sampler: type, batch_size: int):
        loader = DataLoader(self.data_interface, batch_size=batch_size, sampler=sampler(self.data_interface))
        return {"all": loader}

    def train_step(self, global_step: int, batch, device="cpu"):
        x, y = (part.to(device) for part in batch)
        loss = torch.nn.functional.mse_loss(self.net(x), y)
        return loss, x

    def val_step(self, global_step, batch, device):
        x, y = batch
        return torch.nn.functional.mse_loss(self.net(x.to(device)), y.to(device)), y

    def on_end_train_step(self, global_step: int, *train_step_collated_outputs):
        assert len(train_step_collated_outputs[1]) == 4

    def on_end_train_epoch(self, global_step: int, *train_step_collated_outputs):
        self.epoch_losses.append(train_step_collated_outputs[0].mean().item())

    def on_end_val_epoch(self, global_step: int, *val_step_collated_outputs, key="default"):
        self.val_losses[key] = val_step_collated_outputs[0].mean().item()


def test_a_module_written_for_pymarlin_trains(make_checkpointer):
    torch.manual_seed(0)
    module = SquaresModule(data_interface=SquaresData(), lr=0.2)
    trainer = Trainer(
        module=module,
        trainer_backend=SingleProcess(),
        args=TrainerArguments(
            epochs=20, train_batch_size=4, gpu_batch_size_limit=2, val_batch_size=6, use_gpu=False
        ),
        checkpointer=make_checkpointer(),
    )
    trainer.train()
    assert module.epoch_losses[-1] < module.epoch_losses[0] / 4
    assert module.val_losses.keys() == {"all"}
    assert module.val_losses["all"] < module.epoch_losses[0] / 4
    assert isinstance(module.sampled[-1], torch.utils.data.RandomSampler)
    assert trainer.global_steps_finished == 60


@dataclass
class MyCheckpointerArguments:
    """Of PyMarlin's document on checkpointing."""

    checkpoint: bool = True
    save_dir: str = ""
    model_state_save_dir: str = ""
    load_dir: str | None = None
    load_filename: str | None = None
    file_prefix: str = "checkpoint"
    file_ext: str = "pt"


class MyCheckpointer(AbstractCheckpointer):
    """Of PyMarlin's document on checkpointing."""

    def __init__(self, args):
        self.args = args
        self.logger = logging.getLogger(__name__)

    def save(self, checkpoint_state, index, force=False):
        path = os.path.join(self.args.save_dir, f"{self.args.file_prefix}_{index}.{self.args.file_ext}")
        if index % 5 == 0:
            torch.save(checkpoint_state, path)

    def save_model(self, model_state, index):
        if self.args.checkpoint and self.args.model_state_save_dir:
            name = f"{self.args.file_prefix}_model_{index}.{self.args.file_ext}"
            torch.save(model_state, os.path.join(self.args.model_state_save_dir, name))

    def load(self):
        if self.args.load_dir and self.args.load_filename:
            path = os.path.join(self.args.load_dir, self.args.load_filename)
            return torch.load(path, map_location=torch.device("cpu"), weights_only=False)
        self.logger.warning("No checkpointer loaded, check load_dir and load_filename are set.")
        return Checkpoint()


def test_the_checkpointer_of_pymarlins_document_saves_and_continues(tmp_path):
    args = MyCheckpointerArguments(save_dir=str(tmp_path), model_state_save_dir=str(tmp_path))
    arguments = TrainerArguments(epochs=7, train_batch_size=4, use_gpu=False)
    Trainer(SquaresModule(SquaresData()), arguments, None, MyCheckpointer(args)).train()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_0.pt", "checkpoint_5.pt", "checkpoint_model_6.pt"]

    args = dataclasses.replace(args, load_dir=str(tmp_path), load_filename="checkpoint_5.pt")
    module = SquaresModule(SquaresData())
    trainer = Trainer(module, arguments, checkpointer=MyCheckpointer(args))
    assert (trainer.last_epoch, trainer.global_steps_finished) == (5, 18)
    trainer.train()
    assert len(module.epoch_losses) == 1


def test_arguments_that_are_set_between_two_calls_are_obeyed_by_the_next(tmp_path):
    checkpointer = DefaultCheckpointer(
        DefaultCheckpointerArguments(checkpoint=False, save_dir=str(tmp_path / "a"))
    )
    arguments = TrainerArguments(epochs=1, train_batch_size=4, use_gpu=False)
    Trainer(SquaresModule(SquaresData()), arguments, checkpointer=checkpointer).train()
    assert os.listdir(tmp_path) == []
    checkpointer.args.checkpoint = True
    checkpointer.args.model_state_save_dir = None
    Trainer(SquaresModule(SquaresData()), arguments, checkpointer=checkpointer).train()
    assert visible(tmp_path / "a") == ["model_0.pt"]
