"""A trainer with checkpointers, modules and metrics that are not as ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from marlin_ckpt import (
    AbstractCheckpointer,
    ArgumentsError,
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    Trainer,
    TrainerArguments,
    TrainingError,
)
from marlin_ckpt.arguments import SpiralArguments
from marlin_ckpt.training.toys.spiral import Spiral


class ReturnsNone(AbstractCheckpointer):
    """As PyMarlin's documents describe a checkpointer of one's own."""

    def save(self, checkpoint_state, index, force=False):
        self.saved = (checkpoint_state, index)

    def load(self):
        return None


class Measuring(Spiral):
    """Measures one number, whatever it is."""

    measured: object = 0.0

    def get_metrics(self):
        return {"measured": self.measured}


def small() -> SpiralArguments:
    return SpiralArguments(points=20)


def test_a_checkpointer_that_loads_none_starts_a_fresh_run():
    checkpointer = ReturnsNone()
    Trainer(Spiral(small()), TrainerArguments(device="cpu"), checkpointer=checkpointer).train()
    assert checkpointer.saved[1] == 0


@pytest.mark.parametrize("value", [torch.tensor([0.5]), torch.tensor(0.5), 0.5], ids=["1-d", "0-d", "number"])
def test_a_metric_of_one_element_is_saved_as_its_number(tmp_path: Path, value: object):
    module = Measuring(small())
    module.measured = value
    arguments = DefaultCheckpointerArguments(save_dir=str(tmp_path), model_state_save_dir=None)
    checkpointer = DefaultCheckpointer(arguments)
    Trainer(module, TrainerArguments(device="cpu"), checkpointer=checkpointer).train()
    arguments.load_dir = str(tmp_path)
    assert checkpointer.load().metrics["measured"] == 0.5


@pytest.mark.parametrize("value", ["x", 10**400, torch.ones(2)], ids=["text", "too large", "two elements"])
def test_a_metric_that_is_no_number_is_refused_by_its_name(tmp_path: Path, value: object):
    checkpointer = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path)))
    with pytest.raises(ArgumentsError, match="measured"):
        checkpointer.save(Checkpoint(metrics={"measured": value}), 1)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_known_before_anything_is_deleted(tmp_path: Path):
    (tmp_path / "model_1.pt").touch()
    arguments = DefaultCheckpointerArguments(save_dir=str(tmp_path), delete_existing_checkpoints=True)
    trainer = TrainerArguments(device="cuda:77", checkpointer_args=arguments)
    with pytest.raises(TrainingError, match="cuda:77"):
        Trainer(Spiral(small()), trainer)
    assert [path.name for path in tmp_path.iterdir()] == ["model_1.pt"]


def test_a_subclass_may_choose_the_validation_batch_size():
    seen: list[int] = []

    class Watching(Spiral):
        def get_val_dataloaders(self, sampler, batch_size):
            seen.append(batch_size)
            return super().get_val_dataloaders(sampler, batch_size)

    class OwnSize(Trainer):
        @property
        def val_step_batch_size(self):
            return 3

    OwnSize(Watching(small()), TrainerArguments(device="cpu"), checkpointer=ReturnsNone()).train()
    assert seen == [3]
