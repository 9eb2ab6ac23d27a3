"""Runs the steps of an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import RandomSampler, SequentialSampler

from marlin_ckpt.training.module import CallbackInterface, ModuleInterface, SamplerClass, Schedulers, Stage
from marlin_ckpt.training.outputs import OutputCollector, as_tuple


@dataclass
class TrainerBackendArguments:
    """What a trainer hands its backend before the first step.

    Attributes:
        model: what is trained, on its device.
        device: where that is.
        optimizers: stepped and zeroed at each global step.
        schedulers: stepped after them.
        gradient_accumulation: batches behind one global step.
        max_train_steps_per_epoch: global steps after which an epoch ends; None: all data.
        max_val_steps_per_epoch: batches after which a validation ends; None: all data.
        clip_grads: clip the norm of all gradients before each global step.
        max_grad_norm: the norm to clip to.
        on_global_step: told the number of global steps done and the mean loss after each.
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


class TrainerBackend(ABC):
    """How steps are run: in one process, with mixed precision, on many machines."""

    @abstractmethod
    def init(self, args: TrainerBackendArguments) -> None:
        """Takes what it works on; called once, before any other method."""

    @abstractmethod
    def train_dl(self, dataloader: Iterable[Any], callback: CallbackInterface) -> list[Any]:
        """Trains on a loader's batches and returns their collected outputs."""

    @abstractmethod
    def validate_dl(self, dataloader: Iterable[Any]) -> list[Any]:
        """Runs validation steps on a loader's batches and returns their collected outputs."""

    @abstractmethod
    def get_batches_completed(self) -> int:
        """Training batches done in the whole run."""

    @abstractmethod
    def get_global_steps_completed(self) -> int:
        """Optimizer steps done in the whole run."""

    @property
    @abstractmethod
    def train_sampler(self) -> SamplerClass:
        """The class of sampler that a training loader is to use."""

    @property
    @abstractmethod
    def val_sampler(self) -> SamplerClass:
        """The class of sampler that a validation loader is to use."""

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the backend."""

    @abstractmethod
    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Takes over what `get_state` returned once; nothing where there is none."""


class SingleProcess(TrainerBackend):
    """Runs each step in this process, on one device."""

    args: TrainerBackendArguments

    def __init__(self) -> None:
        self.global_step_completed = 0
        self.batches_completed = 0

    def init(self, args: TrainerBackendArguments) -> None:
        """Takes what it works on."""
        self.args = args

    def train_dl(self, dataloader: Iterable[Any], callback: CallbackInterface) -> list[Any]:
        """Trains on a loader's batches.

        A last global step of fewer batches ends the epoch where the batches do not divide evenly, so that
        no gradient is carried over a checkpoint.
        """
        epoch, step = OutputCollector(), OutputCollector()
        accumulated = steps = 0
        limit = self.args.max_train_steps_per_epoch
        for batch in dataloader:
            outputs = self._forward_backward(batch, callback)
            epoch.collect(outputs)
            step.collect(outputs)
            self.batches_completed += 1
            accumulated += 1
            if accumulated == self.args.gradient_accumulation:
                self._global_step(step, callback)
                step, accumulated, steps = OutputCollector(), 0, steps + 1
                if steps == limit:
                    break
        if accumulated:
            # Each loss was divided by the full number of batches; the mean is over those that came.
            for parameter in self.args.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.args.gradient_accumulation / accumulated)
            self._global_step(step, callback)
        return epoch.collated()

    def _forward_backward(self, batch: Any, callback: CallbackInterface) -> tuple[Any, ...]:
        outputs = as_tuple(
            self.args.model.forward(
                stage=Stage.TRAIN,
                global_step=self.global_step_completed + 1,
                batch=batch,
                device=self.args.device,
            )
        )
        loss = outputs[0] / self.args.gradient_accumulation
        loss.backward()
        callback.on_end_backward(self.global_step_completed, loss)
        return outputs

    def _global_step(self, collector: OutputCollector, callback: CallbackInterface) -> None:
        if self.args.clip_grads:
            torch.nn.utils.clip_grad_norm_(self.args.model.parameters(), self.args.max_grad_norm)
        for optimizer in self.args.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for scheduler in self.args.schedulers or ():
            scheduler.step()
        self.global_step_completed += 1
        outputs = collector.collated()
        callback.on_end_train_step(self.global_step_completed, *outputs)
        if self.args.on_global_step is not None:
            self.args.on_global_step(self.global_step_completed, float(outputs[0].float().mean()))

    def validate_dl(self, dataloader: Iterable[Any]) -> list[Any]:
        """Runs validation steps on a loader's batches, without gradients."""
        collector = OutputCollector()
        for done, batch in enumerate(dataloader):
            if done == self.args.max_val_steps_per_epoch:
                break
            with torch.no_grad():
                outputs = self.args.model.forward(
                    stage=Stage.VAL,
                    global_step=self.global_step_completed,
                    batch=batch,
                    device=self.args.device,
                )
            collector.collect(outputs)
        return collector.collated()

    def get_batches_completed(self) -> int:
        """Training batches done in the whole run."""
        return self.batches_completed

    def get_global_steps_completed(self) -> int:
        """Optimizer steps done in the whole run."""
        return self.global_step_completed

    @property
    def train_sampler(self) -> SamplerClass:
        """Random order."""
        return RandomSampler

    @property
    def val_sampler(self) -> SamplerClass:
        """The data's own order."""
        return SequentialSampler

    def get_state(self) -> dict[str, Any]:
        """The step counters."""
        return {
            "global_step_completed": self.global_step_completed,
            "batches_completed": self.batches_completed,
        }

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Takes over the step counters."""
        if state:
            self.global_step_completed = state["global_step_completed"]
            self.batches_completed = state["batches_completed"]


BACKENDS: dict[str, type[TrainerBackend]] = {"sp": SingleProcess}
