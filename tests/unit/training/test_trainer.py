"""The loop over epochs: what it saves, when, with which metrics, and what it tells the module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from marlin_ckpt import (
    AbstractCheckpointer,
    Checkpoint,
    ModuleInterface,
    Trainer,
    TrainerArguments,
    TrainingError,
)
from tests.support.folders import visible

INPUTS = torch.arange(8, dtype=torch.float32).reshape(8, 1) / 8
TARGETS = 3 * INPUTS


class Line(ModuleInterface):
    """Fits y = 3 x, in the data's own order; writes down what it is told."""

    def __init__(self, returns_tuple: bool = False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.returns_tuple = returns_tuple
        self.told: list[tuple] = []
        self.losses: list[float] = []

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        self.told.append(("optimizers", estimated_global_steps_per_epoch, epochs))
        return [torch.optim.SGD(self.parameters(), lr=0.1)], []

    def get_train_dataloader(self, sampler, batch_size):
        return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size)

    def get_val_dataloaders(self, sampler, batch_size):
        return DataLoader(TensorDataset(INPUTS[:4], TARGETS[:4]), batch_size, sampler=sampler(INPUTS[:4]))

    def train_step(self, global_step, batch, device):
        inputs, targets = batch
        loss = ((inputs * self.weight - targets) ** 2).mean()
        self.losses.append(loss.item())
        self.told.append(("step", global_step, len(inputs), self.training, device))
        return (loss, inputs, "words") if self.returns_tuple else loss

    def val_step(self, global_step, batch, device):
        self.told.append(("val_step", global_step, len(batch[0]), self.training, torch.is_grad_enabled()))
        return batch[0]

    def on_begin_train_epoch(self, global_step, epoch):
        self.told.append(("begin_train_epoch", global_step, epoch))

    def on_end_train_step(self, global_step, *outputs):
        self.told.append(("end_train_step", global_step, outputs))

    def on_end_backward(self, global_step, loss):
        self.told.append(("end_backward", global_step, loss.item()))

    def on_end_train_epoch(self, global_step, *outputs):
        self.told.append(("end_train_epoch", global_step, outputs))

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        self.told.append(("end_val_epoch", global_step, outputs, key))

    def on_end_train(self, global_step):
        self.told.append(("end_train", global_step))

    def all_told(self, name):
        return [entry[1:] for entry in self.told if entry[0] == name]


class Shelf(AbstractCheckpointer):
    """Keeps everything that it is given, in memory."""

    def __init__(self):
        self.kept: list[tuple] = []
        self.loads = 0

    def save(self, checkpoint_state, index, force=False):
        self.kept.append(("checkpoint", index, force, copy.deepcopy(checkpoint_state)))

    def save_model(self, model_state, index):
        self.kept.append(("model", index, copy.deepcopy(model_state)))

    def load(self):
        self.loads += 1
        return Checkpoint()


def _train(module, **arguments) -> tuple[Trainer, Shelf]:
    arguments = {"epochs": 1, "train_batch_size": 4, "val_batch_size": 4, "device": "cpu", **arguments}
    shelf = Shelf()
    trainer = Trainer(module, TrainerArguments(**arguments), checkpointer=shelf)
    trainer.train()
    return trainer, shelf


def test_any_checkpointer_gets_each_epoch_then_the_last_forced_then_the_model():
    _, shelf = _train(Line(), epochs=3)
    assert [entry[:3] if entry[0] == "checkpoint" else entry[:2] for entry in shelf.kept] == [
        ("checkpoint", 0, False),
        ("checkpoint", 1, False),
        ("checkpoint", 2, False),
        ("checkpoint", 2, True),
        ("model", 2),
    ]


def test_load_is_called_once_and_at_construction():
    shelf = Shelf()
    trainer = Trainer(Line(), TrainerArguments(epochs=2, device="cpu"), checkpointer=shelf)
    assert shelf.loads == 1
    trainer.train()
    assert shelf.loads == 1


def test_a_checkpointer_that_is_falsy_is_used_all_the_same(tmp_path, monkeypatch):
    class Countable(Shelf):
        def __len__(self):
            return len(self.kept)

    monkeypatch.chdir(tmp_path)
    shelf = Countable()
    Trainer(Line(), TrainerArguments(device="cpu"), checkpointer=shelf).train()
    assert len(shelf) == 3
    assert list(tmp_path.iterdir()) == []


def test_without_a_checkpointer_the_arguments_of_the_default_one_are_obeyed(make_checkpointer, tmp_path):
    arguments = make_checkpointer(period=2, file_prefix="run").args
    Trainer(Line(), TrainerArguments(epochs=4, device="cpu", checkpointer_args=arguments)).train()
    assert visible(tmp_path / "checkpoints") == [
        "run_0.pt",
        "run_2.pt",
        "run_3.pt",
        "run_model_3.pt",
    ]


def test_each_checkpoint_holds_the_three_states_as_they_were_at_its_epoch():
    module = Line()
    _, shelf = _train(module, epochs=2)
    first, second, forced, model = (entry[-1] for entry in shelf.kept)
    assert first.module_interface_state["weight"] != second.module_interface_state["weight"]
    assert torch.equal(second.module_interface_state["weight"], module.weight)
    assert torch.equal(forced.module_interface_state["weight"], module.weight)
    assert repr(forced) == repr(second)
    assert torch.equal(model["weight"], module.weight)
    assert [state.trainer_state["last_epoch"] for state in (first, second)] == [0, 1]
    assert [state.trainer_backend_state for state in (first, second)] == [
        {"global_step_completed": 2, "batches_completed": 2},
        {"global_step_completed": 4, "batches_completed": 4},
    ]


def test_no_epochs_save_nothing_and_end_the_training():
    module = Line()
    _, shelf = _train(module, epochs=0)
    assert shelf.kept == []
    assert module.all_told("end_train") == [(0,)]
    assert module.losses == []


def test_train_loss_is_the_mean_over_the_epochs_batches():
    module = Line()
    _, shelf = _train(module, epochs=2, train_batch_size=2)
    losses = [entry[-1].metrics["train_loss"] for entry in shelf.kept if entry[0] == "checkpoint"]
    assert losses[0] == pytest.approx(sum(module.losses[:4]) / 4, rel=1e-6)
    assert losses[1] == pytest.approx(sum(module.losses[4:]) / 4, rel=1e-6)
    assert losses[2] == losses[1] < losses[0]


def test_the_metrics_of_the_module_are_joined_with_the_trainers():
    class Measured(Line):
        def get_metrics(self):
            return {"val_mean": float(self.all_told("end_val_epoch")[-1][1][0].mean())}

    _, shelf = _train(Measured())
    metrics = shelf.kept[0][-1].metrics
    assert metrics.keys() == {"train_loss", "val_mean"}
    assert metrics["val_mean"] == INPUTS[:4].mean()


def test_the_callbacks_come_in_order_with_the_documented_arguments():
    module = Line()
    _train(module, epochs=2, val_batch_size=2)
    cpu = torch.device("cpu")
    assert module.told[0] == ("optimizers", 2, 2)
    assert [entry[:2] if entry[0] != "step" else entry for entry in module.told[1:]] == [
        step
        for epoch in range(2)
        for step in [
            ("begin_train_epoch", 2 * epoch),
            ("step", 2 * epoch + 1, 4, True, cpu),
            ("end_backward", 2 * epoch),
            ("end_train_step", 2 * epoch + 1),
            ("step", 2 * epoch + 2, 4, True, cpu),
            ("end_backward", 2 * epoch + 1),
            ("end_train_step", 2 * epoch + 2),
            ("val_step", 2 * epoch + 2),
            ("val_step", 2 * epoch + 2),
            ("end_val_epoch", 2 * epoch + 2),
            ("end_train_epoch", 2 * epoch + 2),
        ]
    ] + [("end_train", 4)]
    assert module.all_told("begin_train_epoch") == [(0, 0), (2, 1)]
    assert module.all_told("end_backward") == list(enumerate(module.losses))


def test_the_collected_outputs_reach_the_callbacks_of_step_epoch_and_validation():
    module = Line(returns_tuple=True)
    _train(module, train_batch_size=4, val_batch_size=3)
    steps = [outputs for _, outputs in module.all_told("end_train_step")]
    assert [outputs[0].tolist() for outputs in steps] == [[pytest.approx(loss)] for loss in module.losses]
    ((_, (losses, inputs, words)),) = module.all_told("end_train_epoch")
    assert losses.tolist() == pytest.approx(module.losses)
    assert not losses.requires_grad
    assert torch.equal(inputs, INPUTS)
    assert words == ["words", "words"]
    ((_, (validated,), key),) = module.all_told("end_val_epoch")
    assert torch.equal(validated, INPUTS[:4])
    assert key == "default"


def test_training_steps_run_in_train_mode_and_validation_in_eval_mode_without_gradients():
    module = Line()
    _train(module, epochs=2)
    assert {training for _, _, training, _ in module.all_told("step")} == {True}
    assert {entry[2:] for entry in module.all_told("val_step")} == {(False, False)}


def test_several_validation_loaders_are_run_in_order_each_under_its_key():
    class Split(Line):
        def get_val_dataloaders(self, sampler, batch_size):
            return {"near": DataLoader(INPUTS[:2], batch_size), "far": DataLoader(INPUTS[5:], batch_size)}

        def val_step(self, global_step, batch, device):
            return batch

    module = Split()
    _train(module)
    near, far = module.all_told("end_val_epoch")
    assert (near[2], near[1][0].tolist()) == ("near", INPUTS[:2].tolist())
    assert (far[2], far[1][0].tolist()) == ("far", INPUTS[5:].tolist())


class _Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield INPUTS[1], TARGETS[1]


class Streaming(Line):
    def get_train_dataloader(self, sampler, batch_size):
        return DataLoader(_Endless(), batch_size)


def test_a_loader_without_a_length_trains_up_to_the_given_number_of_steps():
    module = Streaming()
    trainer, _ = _train(module, epochs=2, max_train_steps_per_epoch=3)
    assert trainer.global_steps_finished == 6
    assert module.told[0] == ("optimizers", 3, 2)


def test_a_loader_without_a_length_needs_a_number_of_steps():
    with pytest.raises(TrainingError, match="no length") as caught:
        _train(Streaming())
    assert "max_train_steps_per_epoch" in caught.value.hint


def test_auto_takes_the_cpu_where_the_gpu_may_not_be_used():
    module = Line()
    trainer, _ = _train(module, device="auto", use_gpu=False)
    assert trainer.device == torch.device("cpu")
    assert {entry[-1] for entry in module.all_told("step")} == {torch.device("cpu")}


def test_auto_takes_the_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = Trainer(Line(), TrainerArguments(device="auto"), checkpointer=Shelf())
    assert trainer.device.type == trainer.module.weight.device.type == expected


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "hpu", "privateuseone", "cuda:x", "mps:7"])
def test_a_device_that_is_not_there_is_refused_by_name_before_anything_is_loaded(device):
    shelf = Shelf()
    with pytest.raises(TrainingError) as caught:
        Trainer(Line(), TrainerArguments(device=device), checkpointer=shelf)
    assert repr(device) in str(caught.value)
    assert "auto" in caught.value.hint
    assert shelf.loads == 0
