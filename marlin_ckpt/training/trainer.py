"""The loop over epochs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import SequentialSampler

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.checkpointer.default import DefaultCheckpointer
from marlin_ckpt.checkpointer.payload import plain_metrics
from marlin_ckpt.errors import StateMismatchError, TrainingError
from marlin_ckpt.training import states
from marlin_ckpt.training.backend import BACKENDS, TrainerBackend, TrainerBackendArguments
from marlin_ckpt.training.module import ModuleInterface, SamplerClass
from marlin_ckpt.training.observer import TrainerObserver


class Trainer:
    """Trains a module, saves after each epoch, and continues from what the checkpointer loads.

    Attributes:
        module: what is trained.
        args: how.
        trainer_backend: what runs the steps.
        checkpointer: what saves and loads.
        last_epoch: the last epoch done, -1 before the first.
        optimizers, schedulers: the module's.
    """

    def __init__(
        self,
        module: ModuleInterface,
        args: TrainerArguments,
        trainer_backend: TrainerBackend | None = None,
        checkpointer: AbstractCheckpointer | None = None,
        *,
        observer: TrainerObserver | None = None,
    ) -> None:
        """Loads once, and hands the three states back to the module, to itself and to the backend.

        Args:
            module: what to train.
            args: how.
            trainer_backend: what runs the steps; None: the one that `args.backend` names.
            checkpointer: what saves and loads; None: a `DefaultCheckpointer` of `args.checkpointer_args`.
            observer: told of the progress.

        Raises:
            StateMismatchError: a state was loaded that does not fit.
            TrainingError: the device is not there.
            Whatever the checkpointer's `load` raises.
        """
        args.check()
        self.device = device_of(args)
        self.module = module
        self.args = args
        self.logger = logging.getLogger(__name__)
        self.logger.setLevel(args.log_level)
        self.trainer_backend = BACKENDS[args.backend]() if trainer_backend is None else trainer_backend
        self.checkpointer = (
            DefaultCheckpointer(args.checkpointer_args) if checkpointer is None else checkpointer
        )
        self.last_epoch = -1
        self._observer = observer

        checkpoint = states.load(self.checkpointer, self.module)
        # What was measured last stays true until an epoch measures anew: a finished run saves it again.
        self._metrics = plain_metrics(checkpoint.metrics if type(checkpoint) is Checkpoint else None)
        self.module.to(self.device)
        self.optimizers, self.schedulers = self.module.get_optimizers_schedulers(
            self.estimated_global_steps_per_epoch, args.epochs
        )
        states.update("trainer", self, checkpoint.trainer_state)
        self.checkpointer.register(*self.optimizers)
        self.trainer_backend.init(self._backend_arguments())
        states.update("trainer backend", self.trainer_backend, checkpoint.trainer_backend_state)

    def train(self) -> None:
        """Runs the epochs that are left, saving after each; then saves once more, forced, and the model."""
        for epoch in range(self.last_epoch + 1, self.args.epochs):
            self.module.on_begin_train_epoch(self.global_steps_finished, epoch)
            self._tell_saved(None)
            if self._observer is not None:
                self._observer.on_epoch_begin(epoch, self.args.epochs, self.estimated_global_steps_per_epoch)
            self.module.train()
            outputs = self.train_epoch()
            self.validate()
            self.module.on_end_train_epoch(self.global_steps_finished, *outputs)
            self.last_epoch = epoch
            self._metrics = plain_metrics({**_mean_loss(outputs), **dict(self.module.get_metrics())})
            if self._observer is not None:
                self._observer.on_epoch_end(epoch, self._metrics)
            self.save_checkpoint()
        if self.last_epoch >= 0:
            self.save_checkpoint(force=True)
            self.save_model_checkpoint()
            self.checkpointer.wait()
            self._tell_saved(None)
        self.module.on_end_train(self.global_steps_finished)

    def train_epoch(self) -> list[Any]:
        """Trains on all data once and returns the collected outputs."""
        dataloader = self.module.get_train_dataloader(
            sampler=self.train_sampler, batch_size=self.train_step_batch_size
        )
        return list(self.trainer_backend.train_dl(dataloader, self.module))

    def validate(self) -> list[Any]:
        """Runs the validation loaders one after the other and returns the last one's collected outputs."""
        loaders = self.module.get_val_dataloaders(
            sampler=self.val_sampler, batch_size=self.val_step_batch_size
        )
        self.module.eval()
        outputs: list[Any] = []
        for key, loader in (loaders if isinstance(loaders, dict) else {"default": loaders}).items():
            outputs = list(self.trainer_backend.validate_dl(loader))
            self.module.on_end_val_epoch(self.global_steps_finished, *outputs, key=key)
        return outputs

    def save_checkpoint(self, force: bool = False) -> None:
        """Hands the three states and the metrics to the checkpointer, under the last epoch as index.

        Args:
            force: save whatever the checkpointer's rules for when to save say.
        """
        state = Checkpoint(
            module_interface_state=self.module.get_state(),
            trainer_state=self.get_state(),
            trainer_backend_state=self.trainer_backend.get_state(),
            metrics=dict(self._metrics),
        )
        self._tell_saved(self.checkpointer.save(state, self.last_epoch, force))

    def save_model_checkpoint(self) -> None:
        """Hands the module's state alone to the checkpointer, under the last epoch as index."""
        self._tell_saved(self.checkpointer.save_model(self.module.get_state(), self.last_epoch))

    def _tell_saved(self, path: str | None) -> None:
        reports = self.checkpointer.take_reports()
        if self._observer is None:
            return
        if reports is None and path:
            self._observer.on_save(path, self.last_epoch, None)
        for report in reports or ():
            self._observer.on_save(report.path, report.index, report)

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the trainer; a subclass may add its own."""
        return {
            "last_epoch": self.last_epoch,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Takes over what `get_state` returned once; with `reset_optimizers_schedulers` the epoch alone.

        Args:
            state: the state, or None to leave everything as it is.

        Raises:
            StateMismatchError: it holds another number of optimizers or schedulers.
        """
        if not state:
            return
        self.last_epoch = state["last_epoch"]
        if self.args.reset_optimizers_schedulers:
            self.logger.info("Optimizers and schedulers are new, not loaded.")
            if (left := self.args.epochs - self.last_epoch - 1) > 0:
                self.optimizers, self.schedulers = self.module.get_optimizers_schedulers(
                    self.estimated_global_steps_per_epoch, left
                )
            return
        owners: dict[str, list[Any]] = {
            "optimizers": list(self.optimizers),
            "schedulers": list(self.schedulers),
        }
        for name, live in owners.items():
            if len(live) != len(state[name]):
                what = f"the checkpoint holds {len(state[name])} {name}, the module makes {len(live)}"
                raise StateMismatchError(
                    what, hint="trainer.reset_optimizers_schedulers: true makes new ones"
                )
            for one, saved in zip(live, state[name], strict=True):
                one.load_state_dict(saved)

    @property
    def train_step_batch_size(self) -> int:
        """Samples in one batch: the greatest size that the device holds and the accumulation divides into."""
        size, limit = self.args.train_batch_size, self.args.gpu_batch_size_limit
        if size <= limit:
            return size
        if size % limit == 0:
            return limit
        while size > limit:
            size //= 2
        return size

    @property
    def gradient_accumulation(self) -> int:
        """Batches behind one global step."""
        return self.args.train_batch_size // self.train_step_batch_size

    @property
    def val_step_batch_size(self) -> int:
        """Samples in one validation batch."""
        return self.args.val_batch_size

    @property
    def train_sampler(self) -> SamplerClass:
        """The class of sampler for training data."""
        return self.trainer_backend.train_sampler

    @property
    def val_sampler(self) -> SamplerClass:
        """The class of sampler for validation data."""
        return self.trainer_backend.val_sampler

    @property
    def global_steps_finished(self) -> int:
        """Optimizer steps done in the whole run."""
        return self.trainer_backend.get_global_steps_completed()

    @property
    def total_steps_finished(self) -> int:
        """Training batches done in the whole run."""
        return self.trainer_backend.get_batches_completed()

    @property
    def estimated_global_steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch.

        Raises:
            TrainingError: the loader has no length and `max_train_steps_per_epoch` is not set.
        """
        limit = self.args.max_train_steps_per_epoch
        loader = self.module.get_train_dataloader(
            sampler=SequentialSampler, batch_size=self.train_step_batch_size
        )
        if loader is None:  # a module that is only validated
            return 0
        try:
            batches = len(loader)
        except TypeError as error:
            if limit is None:
                hint = "set trainer.max_train_steps_per_epoch"
                raise TrainingError("the training data has no length", hint=hint) from error
            return limit
        steps = -(-batches // self.gradient_accumulation)
        return steps if limit is None else min(steps, limit)

    def _backend_arguments(self) -> TrainerBackendArguments:
        return TrainerBackendArguments(
            model=self.module,
            device=self.device,
            optimizers=self.optimizers,
            schedulers=self.schedulers,
            gradient_accumulation=self.gradient_accumulation,
            max_train_steps_per_epoch=self.args.max_train_steps_per_epoch,
            max_val_steps_per_epoch=self.args.max_val_steps_per_epoch,
            clip_grads=self.args.clip_grads,
            max_grad_norm=self.args.max_grad_norm,
            on_global_step=None if self._observer is None else self._observer.on_global_step,
        )


def device_of(args: TrainerArguments) -> torch.device:
    """The device that the arguments choose.

    Raises:
        TrainingError: it is not there.
    """
    if args.device == "auto":
        return torch.device("cuda" if args.use_gpu and torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(args.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        what = f"the device {args.device!r} is not there"
        raise TrainingError(what, hint="trainer.device: auto takes what is") from error
    return device


def _mean_loss(outputs: list[Any]) -> dict[str, float]:
    if outputs and isinstance(outputs[0], torch.Tensor) and outputs[0].numel():
        return {"train_loss": float(outputs[0].double().mean())}
    return {}
