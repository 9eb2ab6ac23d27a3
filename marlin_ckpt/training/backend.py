"""Runs the steps of an epoch."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch.utils.data import SequentialSampler

from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training import stepping
from marlin_ckpt.training.module import CallbackInterface, ModuleInterface, SamplerClass, Schedulers, Stage
from marlin_ckpt.training.outputs import EpochOutputs, OutputCollector, as_tuple
from marlin_ckpt.training.parallel.sharing import Sharing
from marlin_ckpt.training.resume.order import EpochSampler, Remaining


@dataclass
class TrainerBackendArguments:
    """What a trainer gives its backend before the first step.

    Attributes:
        model: the module, on its device.
        device: that device.
        optimizers: stepped at each global step; their gradients are then set to zero.
        schedulers: stepped after the optimizers.
        gradient_accumulation: batches for one global step.
        max_train_steps_per_epoch: global steps after which an epoch ends. None uses all data.
        max_val_steps_per_epoch: batches after which a validation ends. None uses all data.
        clip_grads: clip the norm of all gradients before each global step.
        max_grad_norm: the greatest norm.
        on_global_step: called after each global step with the number of them done and the mean loss of this
            one. It may save a checkpoint, and raises an exception if training is to stop.
        amp_dtype: the type that mixed precision computes in: `bfloat16`, `float16` or `auto`.
    """

    model: ModuleInterface
    device: torch.device
    optimizers: Iterable[torch.optim.Optimizer]
    schedulers: Schedulers = ()
    gradient_accumulation: int = 1
    max_train_steps_per_epoch: int | None = None
    max_val_steps_per_epoch: int | None = None
    clip_grads: bool = True
    max_grad_norm: float = 1.0
    on_global_step: Callable[[int, float], None] | None = None
    amp_dtype: str = "auto"


def weakly(method: Callable[[int, float], None]) -> Callable[[int, float], None]:
    """A bound method that does not keep its owner alive.

    A trainer holds its backend: if that held the trainer, the tensors of both would be freed only when the
    cyclic collector runs.
    """
    reference = weakref.WeakMethod(method)
    return lambda step, loss: None if (alive := reference()) is None else alive(step, loss)


class TrainerBackend(ABC):
    """Runs the steps of a trainer: in one process, with mixed precision, or on many machines."""

    @abstractmethod
    def init(self, args: TrainerBackendArguments) -> None:
        """Takes the arguments; called once, before any other method."""

    @abstractmethod
    def train_dl(self, dataloader: Iterable[Any], callback: CallbackInterface) -> list[Any]:
        """Trains on the batches of a loader and returns their outputs; see `CallbackInterface`."""

    @abstractmethod
    def validate_dl(self, dataloader: Iterable[Any]) -> list[Any]:
        """Runs validation steps on the batches of a loader and returns their outputs."""

    @abstractmethod
    def get_batches_completed(self) -> int:
        """Training batches done in the whole run."""

    def end_epoch(self) -> None:  # noqa: B027 - a backend may have nothing to end
        """Called after an epoch and its validation; does nothing unless overridden."""

    @abstractmethod
    def get_global_steps_completed(self) -> int:
        """Optimizer steps done in the whole run."""

    @property
    @abstractmethod
    def train_sampler(self) -> SamplerClass:
        """The class of samplers for the training data."""

    @property
    @abstractmethod
    def val_sampler(self) -> SamplerClass:
        """The class of samplers for the validation data."""

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """The backend's part of a checkpoint."""

    @abstractmethod
    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Restores what `get_state` returned; None restores nothing."""


@dataclass
class _Progress:
    """What an epoch under way has done: global steps, and the outputs of their batches."""

    steps: int = 0
    outputs: EpochOutputs = field(default_factory=EpochOutputs)


class SingleProcess(TrainerBackend):
    """Runs each step in this process, on one device.

    Attributes:
        lost: what a state from within an epoch could not hold, one sentence each.
        sharing: what other ranks have to do with its steps; none, unless a backend for many ranks has it.
    """

    args: TrainerBackendArguments

    def __init__(self) -> None:
        self.global_step_completed = 0
        self.batches_completed = 0
        self.lost: list[str] = []
        self.sharing = Sharing()
        self._progress = _Progress()
        self._goes_on = self._is_within_step = False

    def init(self, args: TrainerBackendArguments) -> None:
        """Takes the arguments.

        Raises:
            TrainingError: an optimizer or a scheduler cannot be stepped without an argument.
        """
        stepping.check(args.optimizers, args.schedulers or ())
        self.args = args

    def train_dl(self, dataloader: Iterable[Any], callback: CallbackInterface) -> list[Any]:
        """Trains on the batches of a loader; after a resume within an epoch, on those that are left.

        If the batches do not divide evenly, the last global step of an epoch has fewer of them, so that no
        gradient is left over at a checkpoint.

        Raises:
            TrainingError: an exception ended an earlier call in the middle of a global step.
        """
        if self._is_within_step:
            hint = "make a new trainer, which goes on from the last checkpoint"
            raise TrainingError("training was ended in the middle of a global step", hint=hint)
        if not (self._goes_on or (isinstance(dataloader, Remaining) and dataloader.done)):
            self._progress = _Progress()
        self._goes_on = False
        self._train(dataloader, callback)
        outputs = self._gathered()
        if not isinstance(dataloader, Remaining):  # a trainer ends the epoch, others do not
            self.end_epoch()
        return outputs

    def _gathered(self) -> list[Any]:
        """The outputs of the epoch, of all ranks: all places of them where the module wants to see them."""
        outputs = self._progress.outputs.collated()
        is_needed = self.sharing.ranks.world_size == 1 or self._needs_outputs()
        return self.sharing.gathered(outputs if is_needed else outputs[:1])

    def end_epoch(self) -> None:
        """Frees the outputs of the epoch, which a checkpoint during its validation still holds."""
        self._progress = _Progress()

    def _train(self, dataloader: Iterable[Any], callback: CallbackInterface) -> None:
        progress, limit = self._progress, self.args.max_train_steps_per_epoch
        step, accumulated = OutputCollector(), 0
        if limit is not None and progress.steps >= limit:  # which a resumed run may have lowered
            return
        for batch in self.sharing.batches(dataloader):
            self._is_within_step = True
            with self.sharing.step(is_full=accumulated + 1 == self.args.gradient_accumulation):
                outputs = self._forward_backward(batch, callback)
            progress.outputs.collect(outputs)
            step.collect(outputs)
            self.batches_completed += 1
            accumulated += 1
            if accumulated == self.args.gradient_accumulation:
                self._global_step(step, callback)
                step, accumulated = OutputCollector(), 0
                if progress.steps == limit:
                    return
        if accumulated:
            # Each loss was divided by the full number of batches; the mean is over those that came.
            for parameter in self.args.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.args.gradient_accumulation / accumulated)
            self._global_step(step, callback)

    def _forward_backward(self, batch: Any, callback: CallbackInterface) -> tuple[Any, ...]:
        outputs = as_tuple(self._forward(Stage.TRAIN, self.global_step_completed + 1, batch))
        loss = outputs[0] / self.args.gradient_accumulation
        self._backward(loss)
        callback.on_end_backward(self.global_step_completed, loss)
        return outputs

    def _forward(self, stage: Stage, global_step: int, batch: Any) -> Any:
        device = self.args.device
        given = {"stage": stage, "global_step": global_step, "batch": batch, "device": device}
        return self.sharing.forward(self.args.model, is_training=stage is Stage.TRAIN, **given)

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def _step(self) -> None:
        """Changes the parameters by the gradients that were accumulated."""
        self._clip()
        for optimizer in self.args.optimizers:
            optimizer.step()

    def _clip(self) -> None:
        if self.args.clip_grads:
            self.sharing.clip(self.args.model, self.args.max_grad_norm)

    def _global_step(self, collector: OutputCollector, callback: CallbackInterface) -> None:
        self.sharing.check_full()
        self._step()
        for optimizer in self.args.optimizers:
            optimizer.zero_grad()
        stepping.forget_gradients(self.args.model, self.args.optimizers)
        for scheduler in self.args.schedulers or ():
            scheduler.step()
        self.global_step_completed += 1
        self._progress.steps += 1
        self._is_within_step = False
        outputs = collector.collated()
        callback.on_end_train_step(self.global_step_completed, *outputs)
        if self.args.on_global_step is not None:
            self.args.on_global_step(self.global_step_completed, float(outputs[0].float().mean()))

    def validate_dl(self, dataloader: Iterable[Any]) -> list[Any]:
        """Runs validation steps on a loader's batches, without gradients."""
        collector = OutputCollector()
        batches = islice(dataloader, self.args.max_val_steps_per_epoch)
        for batch, counts in self.sharing.validation(self.args.model, batches):
            with torch.no_grad():
                outputs = self._forward(Stage.VAL, self.global_step_completed, batch)
            if counts:
                collector.collect(outputs)
        return self.sharing.gathered(collector.collated())

    def get_batches_completed(self) -> int:
        """Training batches done in the whole run."""
        return self.batches_completed

    def get_global_steps_completed(self) -> int:
        """Optimizer steps done in the whole run."""
        return self.global_step_completed

    @property
    def train_sampler(self) -> SamplerClass:
        """An order that the seed and the epoch decide."""
        return EpochSampler

    @property
    def val_sampler(self) -> SamplerClass:
        """The data's own order."""
        return SequentialSampler

    def get_state(self) -> dict[str, Any]:
        """The counts of steps and batches; within an epoch also what `on_end_train_epoch` needs of it."""
        state: dict[str, Any] = {
            "global_step_completed": self.global_step_completed,
            "batches_completed": self.batches_completed,
        }
        if steps := self._progress.steps:
            outputs = self._progress.outputs.state(only_losses=not self._needs_outputs())
            state["epoch"] = {"steps": steps, "outputs": outputs}
        return state

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Restores what `get_state` returned."""
        if state:
            self.global_step_completed = state["global_step_completed"]
            self.batches_completed = state["batches_completed"]
            if epoch := state.get("epoch"):
                self._progress = _Progress(epoch["steps"], EpochOutputs(epoch["outputs"]))
                self._goes_on, self.lost = True, self._progress.outputs.lost()

    def _needs_outputs(self) -> bool:
        method = self.args.model.on_end_train_epoch
        return getattr(method, "__func__", None) is not CallbackInterface.on_end_train_epoch
