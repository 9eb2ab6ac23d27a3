"""What a trainer trains: a `torch.nn.Module` with optimizers, data, steps and callbacks; PyMarlin's."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

SamplerClass = Callable[[Any], Sampler[int]]
Loaders = DataLoader[Any] | dict[str, DataLoader[Any]] | None
Schedulers = Iterable[torch.optim.lr_scheduler.LRScheduler]


class Stage(Enum):
    """What a forward pass is for."""

    TRAIN = 1
    VAL = 2
    TEST = 3


class CallbackInterface(ABC):  # noqa: B024 - each method may stay as it is
    """Methods that a trainer calls as training goes on; each does nothing unless overridden.

    `outputs` are what the steps returned, collected over batches: tensors are detached, moved to the CPU and
    concatenated along their first dimension (scalars are stacked), anything else is put into lists.
    `global_step` is the number of optimizer steps done in the whole run.

    On many ranks each calls these methods. The outputs of an epoch and of a validation are then those of all
    ranks, those of a step those of its own.
    """

    def on_begin_train_epoch(self, global_step: int, epoch: int) -> None:  # noqa: B027 - a callback may do nothing
        """Called before the first step of an epoch (from 0), and again when a run is resumed within it."""

    def on_end_train_step(self, global_step: int, *outputs: Any) -> None:  # noqa: B027
        """Called after each optimizer step, with the outputs of its batches."""

    def on_end_backward(self, global_step: int, loss: torch.Tensor) -> None:  # noqa: B027
        """Called after each backward pass, with the loss that it started from, a scalar tensor."""

    def on_end_train_epoch(self, global_step: int, *outputs: Any) -> None:  # noqa: B027
        """Called after an epoch and its validation, with the outputs of its training batches."""

    def on_end_val_epoch(self, global_step: int, *outputs: Any, key: str = "default") -> None:  # noqa: B027
        """Called after each validation loader, with its key and the outputs of its batches."""

    def on_end_train(self, global_step: int) -> None:  # noqa: B027
        """Called once, after everything has been saved."""


class ModuleInterface(torch.nn.Module, CallbackInterface):
    """What a `Trainer` trains: derive from it and implement the abstract methods.

    Attributes:
        should_stop: set it to True, in any method, to end the run early. The current epoch is finished and
            saved, and no other begins. A checkpoint within that epoch stores it. A run that is resumed after
            that epoch continues, unless the module sets it again, for example in `update_state`.
    """

    should_stop: bool = False

    @abstractmethod
    def get_optimizers_schedulers(
        self, estimated_global_steps_per_epoch: int, epochs: int
    ) -> tuple[Iterable[torch.optim.Optimizer], Schedulers]:
        """Makes the optimizers and the learning-rate schedulers.

        An optimizer is stepped without a closure, so that LBFGS cannot be used. Schedulers are stepped after
        each optimizer step or each epoch; ReduceLROnPlateau by epoch, with the metric that `plateau_metric`
        names.

        Args:
            estimated_global_steps_per_epoch: optimizer steps in an epoch.
            epochs: epochs in the run.

        Returns:
            the optimizers, and the schedulers.
        """

    @abstractmethod
    def get_train_dataloader(self, sampler: SamplerClass, batch_size: int) -> DataLoader[Any] | None:
        """Makes the loader of the training data; called for each epoch, and once to count the steps.

        Args:
            sampler: a class of samplers; call it with the data set and give the result to the loader.
            batch_size: samples in one batch.

        Returns:
            the loader; None for a module that is only validated.
        """

    @abstractmethod
    def get_val_dataloaders(self, sampler: SamplerClass, batch_size: int) -> Loaders:
        """Makes the loader of the validation data, or a dict of several; called for each epoch.

        Args:
            sampler: a class of samplers; call it with the data set and give the result to the loader.
            batch_size: samples in one batch.

        Returns:
            the loader or loaders; None if nothing is validated.
        """

    @abstractmethod
    def train_step(self, global_step: int, batch: Any, device: torch.device) -> Any:
        """Computes the loss of a batch.

        Args:
            global_step: the number of the optimizer step that this batch is for, from 1.
            batch: what the loader gave; move it to the device here.
            device: the device that the module is on.

        Returns:
            the loss, a scalar tensor; or a tuple that begins with it.
        """

    @abstractmethod
    def val_step(self, global_step: int, batch: Any, device: torch.device) -> Any:
        """Computes what `on_end_val_epoch` needs of a batch.

        Args:
            global_step: optimizer steps done.
            batch: what the loader gave; move it to the device here.
            device: the device that the module is on.

        Returns:
            a tensor or a tuple.
        """

    def test_step(self, global_step: int, batch: Any, device: torch.device) -> Any:
        """Computes what a test needs of a batch; a trainer does not call it.

        Raises:
            NotImplementedError: unless overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} has no test_step")

    def forward(self, stage: Stage, global_step: int, batch: Any, device: torch.device) -> Any:
        """Calls `train_step`, `val_step` or `test_step`, as the stage says."""
        steps = {Stage.TRAIN: self.train_step, Stage.VAL: self.val_step, Stage.TEST: self.test_step}
        return steps[stage](global_step=global_step, batch=batch, device=device)

    def get_state(self) -> dict[str, Any]:
        """The module's part of a checkpoint; its `state_dict()` unless overridden."""
        return self.state_dict()

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Restores what `get_state` returned; None restores nothing.

        Raises:
            RuntimeError: the state does not fit the module.
        """
        if state:
            self.load_state_dict(state)

    def get_metrics(self) -> dict[str, float]:
        """What was measured since the last call, for the checkpoint's manifest; nothing unless overridden."""
        return {}

    def data_fingerprint(self) -> str:
        """A text that identifies the training data, such as a hash; `""` unless overridden.

        A resumed run logs a warning if it differs, since with other data it is not the same run.
        """
        return ""


def wants_to_stop(module: ModuleInterface) -> bool:
    """Whether the module has set `should_stop`; a method by that name is the user's, and says nothing."""
    wish: Any = module.should_stop
    return not callable(wish) and bool(wish)


def ask_to_stop(module: ModuleInterface, *, really: bool) -> None:
    """Sets `should_stop`, if really so, and unless it is a property: that follows from the module's state."""
    with contextlib.suppress(AttributeError):
        if really:
            module.should_stop = True
