"""Runs the steps of an epoch."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import SequentialSampler

from marlin_ckpt.training import setting
from marlin_ckpt.training.module import CallbackInterface, ModuleInterface, SamplerClass, Schedulers, Stage
from marlin_ckpt.training.outputs import OutputCollector, as_tuple
from marlin_ckpt.training.resume.order import EpochSampler


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
        on_global_step: called after each global step, with the number of them done and the mean loss of this
            one; may save a checkpoint, and raises an exception where training is to end.
        amp_dtype: of the passes of a backend with mixed precision: `bfloat16`, `float16`, or `auto`.
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


@dataclass
class _Progress:
    """What an epoch under way has done: global steps, and the outputs of their batches."""

    steps: int = 0
    outputs: OutputCollector = field(default_factory=OutputCollector)


class SingleProcess(TrainerBackend):
    """Runs each step in this process, on one device."""

    args: TrainerBackendArguments

    def __init__(self) -> None:
        self.global_step_completed = 0
        self.batches_completed = 0
        self._progress = _Progress()

    def init(self, args: TrainerBackendArguments) -> None:
        """Takes what it works on."""
        self.args = args

    def train_dl(self, dataloader: Iterable[Any], callback: CallbackInterface) -> list[Any]:
        """Trains on a loader's batches; those that are left, when the state of an epoch under way was loaded.

        A last global step of fewer batches ends the epoch where the batches do not divide evenly, so that
        no gradient is carried over a checkpoint.
        """
        try:
            self._train(dataloader, callback)
            return self._progress.outputs.collated()
        finally:
            self._progress = _Progress()

    def _train(self, dataloader: Iterable[Any], callback: CallbackInterface) -> None:
        progress, limit = self._progress, self.args.max_train_steps_per_epoch
        step, accumulated = OutputCollector(), 0
        if limit is not None and progress.steps >= limit:  # which a resumed run may have lowered
            return
        for batch in dataloader:
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
        return self.args.model.forward(stage=stage, global_step=global_step, batch=batch, device=device)

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def _step(self) -> None:
        """Changes the parameters by the gradients that were accumulated."""
        self._clip()
        for optimizer in self.args.optimizers:
            optimizer.step()

    def _clip(self) -> None:
        if self.args.clip_grads:
            torch.nn.utils.clip_grad_norm_(self.args.model.parameters(), self.args.max_grad_norm)

    def _global_step(self, collector: OutputCollector, callback: CallbackInterface) -> None:
        self._step()
        for optimizer in self.args.optimizers:
            optimizer.zero_grad()
        for scheduler in self.args.schedulers or ():
            scheduler.step()
        self.global_step_completed += 1
        self._progress.steps += 1
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
                outputs = self._forward(Stage.VAL, self.global_step_completed, batch)
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
        """An order that the seed and the epoch decide."""
        return EpochSampler

    @property
    def val_sampler(self) -> SamplerClass:
        """The data's own order."""
        return SequentialSampler

    def get_state(self) -> dict[str, Any]:
        """The step counters and, within an epoch, what it has done."""
        state: dict[str, Any] = {
            "global_step_completed": self.global_step_completed,
            "batches_completed": self.batches_completed,
        }
        if steps := self._progress.steps:
            state["epoch"] = {"steps": steps, "outputs": self._progress.outputs.collated()}
        return state

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Takes over what `get_state` returned once."""
        if state:
            self.global_step_completed = state["global_step_completed"]
            self.batches_completed = state["batches_completed"]
            if epoch := state.get("epoch"):
                self._progress = _Progress(epoch["steps"], OutputCollector(epoch["outputs"]))


class SingleProcessAmp(SingleProcess):
    """Runs each step in this process with automatic mixed precision; with `float16`, scales the losses."""

    def init(self, args: TrainerBackendArguments) -> None:
        """Takes what it works on, and chooses the type."""
        super().init(args)
        kind = args.device.type
        has_bfloat16 = kind != "cuda" or torch.cuda.is_bf16_supported()
        best = "bfloat16" if has_bfloat16 else "float16"
        self._dtype: torch.dtype = getattr(torch, best if args.amp_dtype == "auto" else args.amp_dtype)
        if self._dtype == torch.float16:
            setting.expect_schedules_first()
        self._scaler = torch.amp.GradScaler(kind, enabled=self._dtype == torch.float16)

    def _forward(self, stage: Stage, global_step: int, batch: Any) -> Any:
        with torch.autocast(self.args.device.type, self._dtype):
            return super()._forward(stage, global_step, batch)

    def _backward(self, loss: torch.Tensor) -> None:
        super()._backward(self._scaler.scale(loss))

    def _step(self) -> None:
        for optimizer in self.args.optimizers:
            self._scaler.unscale_(optimizer)
        self._clip()
        for optimizer in self.args.optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()

    def get_state(self) -> dict[str, Any]:
        """Also the scale of the losses; empty with `bfloat16`, which needs none."""
        return {**super().get_state(), "scaler": self._scaler.state_dict()}

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Takes over what `get_state` returned once."""
        super().update_state(state)
        if state and state.get("scaler") and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state["scaler"]))


BACKENDS: dict[str, type[TrainerBackend]] = {"sp": SingleProcess, "sp-amp": SingleProcessAmp}
