"""How large a batch is and how many global steps an epoch has; PyMarlin's rules."""

from torch.utils.data import SequentialSampler

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training.backend import TrainerBackend
from marlin_ckpt.training.module import ModuleInterface, SamplerClass
from marlin_ckpt.training.resume import rng


def step_batch_size(size: int, limit: int) -> int:
    """Samples in one batch: the greatest number that the device holds and the accumulation divides into.

    Args:
        size: of the batch behind one optimizer step, `train_batch_size`.
        limit: what the device holds, `gpu_batch_size_limit`.
    """
    if size > limit and size % limit == 0:
        return limit
    while size > limit:
        size //= 2
    return size


def accumulation(size: int, limit: int, world_size: int = 1) -> int:
    """Batches of a rank behind one optimizer step.

    Args:
        size: of the batch of all ranks behind it, `train_batch_size`.
        limit: what a device holds, `gpu_batch_size_limit`.
        world_size: the number of ranks.
    """
    own = size // world_size
    return own // step_batch_size(own, limit)


def global_steps(
    module: ModuleInterface,
    batch_size: int,
    accumulation: int,
    limit: int | None,
    sampler: SamplerClass = SequentialSampler,
) -> int:
    """Optimizer steps in an epoch; 0 for a module that is only validated.

    Args:
        module: what is trained.
        batch_size: samples in one batch.
        accumulation: batches behind one optimizer step.
        limit: optimizer steps after which an epoch ends; None: all data.
        sampler: of the samples that are counted.

    Raises:
        TrainingError: the module's loader has no length and there is no limit.
    """
    with rng.preserved():  # a module may split its data here, and a run that goes on asks again
        loader = module.get_train_dataloader(sampler=sampler, batch_size=batch_size)
    if loader is None:
        return 0
    try:
        steps = -(-len(loader) // accumulation)
    except TypeError as error:
        if limit is None:
            hint = "set trainer.max_train_steps_per_epoch"
            raise TrainingError("the training data has no length", hint=hint) from error
        return limit
    return steps if limit is None else min(steps, limit)


class Figures:
    """The sizes and numbers of a trainer, each of which a subclass may decide otherwise."""

    args: TrainerArguments
    module: ModuleInterface
    trainer_backend: TrainerBackend
    _ranks: Ranks

    @property
    def is_distributed(self) -> bool:
        """Whether the run is on many ranks."""
        return self._ranks.world_size > 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0, or the only process of the run."""
        return self._ranks.is_main

    @property
    def pergpu_global_batch_size(self) -> int:
        """The samples of one optimizer step that are of one rank; PyMarlin's name."""
        return self.args.train_batch_size // self._ranks.world_size

    @property
    def train_step_batch_size(self) -> int:
        """Samples in one training batch of a rank, the largest part that the device can hold."""
        return step_batch_size(self.pergpu_global_batch_size, self.args.gpu_batch_size_limit)

    @property
    def gradient_accumulation(self) -> int:
        """Training batches of a rank for one global step."""
        return self.pergpu_global_batch_size // self.train_step_batch_size

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
        limit, size = self.args.max_train_steps_per_epoch, self.train_step_batch_size
        sampler = self.train_sampler if self.is_distributed else SequentialSampler
        return global_steps(self.module, size, self.gradient_accumulation, limit, sampler)
