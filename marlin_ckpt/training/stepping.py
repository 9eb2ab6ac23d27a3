"""Makes optimizers and schedulers, refuses what cannot be stepped, and steps schedulers with a metric."""

import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training.module import ModuleInterface

_DEFAULT_METRICS = ("val_loss", "train_loss")
Steppers = tuple[list[Optimizer], list[LRScheduler]]


class Maker:
    """Makes a module's optimizers and schedulers once, however often they are asked for."""

    def __init__(self, module: ModuleInterface) -> None:
        self._module = module
        self._made: tuple[int, Steppers] | None = None

    def make(self, steps: int, epochs: int) -> Steppers:
        """Returns those that were made for as many epochs, or makes them.

        Args:
            steps: optimizer steps in an epoch.
            epochs: that they are for.
        """
        if self._made is None or self._made[0] != epochs:
            optimizers, schedulers = self._module.get_optimizers_schedulers(steps, epochs)
            self._made = epochs, (list(optimizers), list(schedulers or ()))
        return self._made[1]


def epochs_ahead(args: TrainerArguments, state: Any) -> int:
    """The epochs that optimizers and schedulers are made for: all of the run, or those that a reset leaves.

    Args:
        args: the trainer's.
        state: of the trainer, that the run goes on from, or None.
    """
    has_place = args.reset_optimizers_schedulers and isinstance(state, Mapping)
    last = state.get("last_epoch") if has_place else None
    left = args.epochs - last - 1 if isinstance(last, int) else 0
    return left if left > 0 else args.epochs


def needs_metric(scheduler: Any) -> bool:
    """Whether a scheduler is stepped with what was measured, as ReduceLROnPlateau is."""
    return bool(_required(scheduler))


def check(optimizers: Iterable[Any], schedulers: Iterable[Any]) -> None:
    """Refuses optimizers and schedulers that cannot be stepped after each global step, before the first one.

    Args:
        optimizers: stepped without an argument.
        schedulers: stepped without an argument.

    Raises:
        TrainingError: one of them needs an argument.
    """
    for number, one in enumerate(optimizers):
        if _required(one):
            what = f"{type(one).__name__} needs a closure that computes the loss again, and is given none"
            hint = "use an optimizer whose step() takes no argument"
            raise TrainingError(what, f"optimizers[{number}]", hint)
    for number, one in enumerate(schedulers):
        if needs_metric(one):
            what = f"{type(one).__name__} needs a metric, and metrics are measured at the end of an epoch"
            raise TrainingError(what, f"schedulers[{number}]", "set trainer.step_schedulers_by: epoch")


def forget_gradients(module: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Drops the gradients of parameters that no optimizer has.

    They would be summed up for ever, be part of the norm that is clipped, and be in no checkpoint.

    Args:
        module: what is trained.
        optimizers: after each has dropped those of its own.
    """
    left = [one for one in module.parameters() if one.grad is not None]
    if left:
        owned = {id(one) for each in optimizers for group in each.param_groups for one in group["params"]}
        for one in left:
            if id(one) not in owned:
                one.grad = None


def by_epoch(schedulers: Sequence[Any], args: TrainerArguments) -> list[Any]:
    """The schedulers that are stepped after each epoch: all or none.

    Args:
        schedulers: the module's.
        args: the trainer's.

    Raises:
        TrainingError: one of them is to be stepped with more than a metric, or with one that is not named.
    """
    if args.step_schedulers_by != "epoch":
        return []
    for number, one in enumerate(schedulers):
        where, needed = f"schedulers[{number}]", _required(one)
        if len(needed) > 1:
            what = f"{type(one).__name__} needs {' and '.join(needed)}, and can be given one metric"
            raise TrainingError(what, where)
        if needed and args.plateau_metric is None and getattr(one, "mode", "min") == "max":
            what = f"{type(one).__name__} waits for the maximum of a metric that is not named"
            raise TrainingError(what, where, "set trainer.plateau_metric to a name that get_metrics returns")
    return list(schedulers)


def step_without_metric(schedulers: Iterable[Any]) -> None:
    """Steps the schedulers that need no metric."""
    for one in schedulers:
        if not needs_metric(one):
            one.step()


def step_with_metric(
    schedulers: Iterable[Any], metrics: Mapping[str, float], name: str | None, logger: logging.Logger
) -> None:
    """Steps the schedulers that need a metric.

    Args:
        schedulers: of which the others are left alone.
        metrics: what was measured in this epoch.
        name: of the metric; None: `val_loss`, or `train_loss` where there is no other.
        logger: warns where there is no such metric.
    """
    waiting = [one for one in schedulers if needs_metric(one)]
    if not waiting:
        return
    names = _DEFAULT_METRICS if name is None else (name,)
    found = next((metrics[one] for one in names if one in metrics), None)
    if found is None:
        logger.warning(
            "%s was not stepped: there is no metric %s; this epoch has %s.",
            type(waiting[0]).__name__,
            " or ".join(names),
            ", ".join(metrics) or "none",
        )
        return
    for one in waiting:
        one.step(found)


def _required(stepped: Any) -> list[str]:
    """The names of the arguments that an optimizer's or a scheduler's `step` cannot be called without."""
    # That of the class: a scheduler wraps its optimizer's own.
    step = getattr(type(stepped), "step", None)
    try:
        parameters = list(inspect.signature(step).parameters.values())[1:] if callable(step) else []
    except ValueError:  # a C function may have no signature
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in kinds]
