"""What a trainer works out from its arguments, its module and its backend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import SequentialSampler

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training.backend import TrainerBackend, TrainerBackendArguments
from marlin_ckpt.training.module import ModuleInterface, SamplerClass
from marlin_ckpt.training.resume import rng


class Sizes:
    """Batch sizes and numbers of steps; PyMarlin's names."""

    args: TrainerArguments
    module: ModuleInterface
    trainer_backend: TrainerBackend
    device: torch.device
    optimizers: list[Optimizer]
    schedulers: list[LRScheduler]

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
        with rng.preserved():  # a module may split its data here, and a run that goes on asks again
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

    def _new_optimizers(self, epochs: int) -> tuple[list[Optimizer], list[LRScheduler]]:
        steps = self.estimated_global_steps_per_epoch
        optimizers, schedulers = self.module.get_optimizers_schedulers(steps, epochs)
        return list(optimizers), list(schedulers or ())

    def _backend_arguments(self, on_global_step: Callable[[int, float], None]) -> TrainerBackendArguments:
        return TrainerBackendArguments(
            model=self.module,
            device=self.device,
            optimizers=self.optimizers,
            schedulers=self.schedulers if self.args.step_schedulers_by == "step" else (),
            gradient_accumulation=self.gradient_accumulation,
            max_train_steps_per_epoch=self.args.max_train_steps_per_epoch,
            max_val_steps_per_epoch=self.args.max_val_steps_per_epoch,
            clip_grads=self.args.clip_grads,
            max_grad_norm=self.args.max_grad_norm,
            on_global_step=on_global_step,
            amp_dtype=self.args.amp_dtype,
        )
