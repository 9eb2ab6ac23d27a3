"""`SingleProcess` by itself, and a backend of one's own in a trainer."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from marlin_ckpt import (
    ArgumentsError,
    ModuleInterface,
    SingleProcess,
    StateMismatchError,
    Trainer,
    TrainerArguments,
    TrainerBackend,
)
from marlin_ckpt.training.backend import TrainerBackendArguments

BATCHES = [torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.tensor([4.0, 5.0])]


class Scale(ModuleInterface):
    """One weight, the loss of a batch is weight times the batch's sum, so that the gradient is the sum."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.0))
        self.steps: list[tuple] = []
        self.ended: list[tuple] = []

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        return [torch.optim.SGD(self.parameters(), lr=1.0)], []

    def get_train_dataloader(self, sampler, batch_size):
        return DataLoader(torch.arange(4.0), batch_size, sampler=sampler(torch.arange(4.0)))

    def get_val_dataloaders(self, sampler, batch_size):
        return DataLoader(torch.arange(4.0), batch_size, sampler=sampler(torch.arange(4.0)))

    def train_step(self, global_step, batch, device):
        self.steps.append((global_step, device))
        return self.weight * batch.sum(), batch, len(batch)

    def val_step(self, global_step, batch, device):
        return [batch, {"size": len(batch)}]

    def on_end_train_step(self, global_step, *outputs):
        self.ended.append((global_step, outputs))


def _backend(module: Scale, **fields) -> SingleProcess:
    backend = SingleProcess()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    fields = {"device": torch.device("cpu"), "optimizers": [optimizer], "clip_grads": False, **fields}
    backend.init(TrainerBackendArguments(model=module, **fields))
    return backend


def test_each_batch_makes_a_step_down_its_gradient():
    module = Scale()
    backend = _backend(module)
    backend.train_dl(BATCHES, module)
    assert module.weight == -(3 + 3 + 9)
    assert (backend.get_global_steps_completed(), backend.get_batches_completed()) == (3, 3)
    assert module.steps == [(number, torch.device("cpu")) for number in (1, 2, 3)]


def test_tensors_are_concatenated_scalars_stacked_and_all_else_listed():
    module = Scale()
    losses, batches, sizes = _backend(module).train_dl(BATCHES, module)
    assert losses.tolist() == [0, -3 * 3, -6 * 9]
    assert not losses.requires_grad
    assert torch.equal(batches, torch.cat(BATCHES))
    assert sizes == [2, 1, 2]


def test_the_outputs_of_a_step_are_those_of_its_accumulated_batches_alone():
    module = Scale()
    _backend(module, gradient_accumulation=2).train_dl(BATCHES, module)
    (first, outputs), (second, rest) = module.ended
    assert (first, outputs[1].tolist(), outputs[2]) == (1, [1, 2, 3], [2, 1])
    assert (second, rest[1].tolist(), rest[2]) == (2, [4, 5], [2])


def test_validation_collects_its_outputs_and_leaves_weights_gradients_and_counters():
    module = Scale()
    backend = _backend(module)
    values, sizes = backend.validate_dl(BATCHES)
    assert torch.equal(values, torch.cat(BATCHES))
    assert sizes == [{"size": 2}, {"size": 1}, {"size": 2}]
    assert module.weight == 0
    assert module.weight.grad is None
    assert backend.get_state() == {"global_step_completed": 0, "batches_completed": 0}


def test_a_limited_epoch_takes_no_batch_that_it_does_not_use():
    taken = []

    def stream():
        for batch in BATCHES:
            taken.append(batch)
            yield batch

    module = Scale()
    _backend(module, max_train_steps_per_epoch=2).train_dl(stream(), module)
    assert len(taken) == len(module.steps) == 2


def test_no_data_make_no_step_and_no_output():
    module = Scale()
    backend = _backend(module)
    assert backend.train_dl([], module) == []
    assert backend.validate_dl([]) == []
    assert backend.get_global_steps_completed() == 0


def test_the_global_steps_observer_is_told_the_mean_loss_of_each_step():
    told = []
    module = Scale()
    fields = {"gradient_accumulation": 2, "on_global_step": lambda step, loss: told.append((step, loss))}
    _backend(module, **fields).train_dl([torch.ones(1), torch.ones(1), torch.ones(2)], module)
    assert told == [(1, 0.0), (2, pytest.approx(2 * module.ended[1][1][0].item() / 2))]


def test_counters_go_on_from_a_state_that_was_taken_over():
    module = Scale()
    backend = _backend(module)
    backend.update_state({"global_step_completed": 7, "batches_completed": 14})
    backend.train_dl(BATCHES[:1], module)
    assert backend.get_state() == {"global_step_completed": 8, "batches_completed": 15}
    assert module.steps[0][0] == 8


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_state_leaves_the_counters(nothing):
    backend = SingleProcess()
    backend.update_state(nothing)
    assert backend.get_state() == {"global_step_completed": 0, "batches_completed": 0}


def test_training_data_are_drawn_at_random_and_validation_data_in_order():
    backend = SingleProcess()
    assert issubclass(backend.train_sampler, RandomSampler)
    assert backend.val_sampler is SequentialSampler


@pytest.mark.parametrize("name", sorted(TrainerBackend.__abstractmethods__))
def test_a_backend_that_leaves_out_a_method_cannot_be_made(name):
    methods = {one: (lambda self: None) for one in TrainerBackend.__abstractmethods__ if one != name}
    incomplete = type("Incomplete", (TrainerBackend,), methods)
    with pytest.raises(TypeError, match=name):
        incomplete()


def test_the_abstract_methods_of_a_backend_are_those_of_the_document():
    assert TrainerBackend.__abstractmethods__ == {
        *("init", "train_dl", "validate_dl", "get_batches_completed", "get_global_steps_completed"),
        *("train_sampler", "val_sampler", "get_state", "update_state"),
    }


class Backwards(SingleProcess):
    """A backend of one's own: samples in its own order, and a state of its own."""

    def __init__(self):
        super().__init__()
        self.epochs_run = 0

    @property
    def train_sampler(self):
        return lambda data: list(reversed(range(len(data))))

    def train_dl(self, dataloader, callback):
        self.epochs_run += 1
        return super().train_dl(dataloader, callback)

    def get_state(self):
        return {**super().get_state(), "epochs_run": self.epochs_run}

    def update_state(self, state):
        super().update_state(state)
        self.epochs_run = state["epochs_run"] if state else 0


def test_a_backend_of_ones_own_runs_the_epochs_and_its_state_is_saved_and_handed_back(make_checkpointer):
    module = Scale()
    arguments = TrainerArguments(epochs=2, train_batch_size=2, device="cpu")
    Trainer(module, arguments, Backwards(), make_checkpointer()).train()
    assert module.ended[0][1][1].tolist() == [3.0, 2.0]
    saved = make_checkpointer().load().trainer_backend_state
    assert saved == {"global_step_completed": 4, "batches_completed": 4, "epochs_run": 2}

    again = Backwards()
    trainer = Trainer(Scale(), TrainerArguments(epochs=3, device="cpu"), again, make_checkpointer())
    assert again.get_state() == saved
    trainer.train()
    assert again.epochs_run == 3


def test_a_checkpoint_of_another_backend_is_refused(make_checkpointer):
    Trainer(Scale(), TrainerArguments(device="cpu"), checkpointer=make_checkpointer()).train()
    with pytest.raises(StateMismatchError, match="trainer backend: 'epochs_run'"):
        Trainer(Scale(), TrainerArguments(device="cpu"), Backwards(), make_checkpointer())


def test_a_backend_of_no_known_name_is_refused_with_the_known_one():
    with pytest.raises(
        ArgumentsError, match="backend: expected one of sp, sp-amp, ddp, ddp-amp, fsdp2, not 'dp'"
    ):
        TrainerArguments(backend="dp")
