"""How large a batch is and how many global steps an epoch has; PyMarlin's rules."""

from torch.utils.data import SequentialSampler

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training.module import ModuleInterface
from marlin_ckpt.training.resume import rng


def step_batch_size(args: TrainerArguments) -> int:
    """Samples in one batch: the greatest number that the device holds and the accumulation divides into."""
    size, limit = args.train_batch_size, args.gpu_batch_size_limit
    if size > limit and size % limit == 0:
        return limit
    while size > limit:
        size //= 2
    return size


def global_steps(module: ModuleInterface, batch_size: int, accumulation: int, limit: int | None) -> int:
    """Optimizer steps in an epoch; 0 for a module that is only validated.

    Args:
        module: what is trained.
        batch_size: samples in one batch.
        accumulation: batches behind one optimizer step.
        limit: optimizer steps after which an epoch ends; None: all data.

    Raises:
        TrainingError: the module's loader has no length and there is no limit.
    """
    with rng.preserved():  # a module may split its data here, and a run that goes on asks again
        loader = module.get_train_dataloader(sampler=SequentialSampler, batch_size=batch_size)
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
