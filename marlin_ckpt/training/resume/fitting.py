"""Compares a saved trainer's state with the optimizers and schedulers of the trainer that would load it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.errors import StateMismatchError
from marlin_ckpt.formats.torch.parameters import Names, names_in
from marlin_ckpt.loading.live import changes_its_state
from marlin_ckpt.loading.optimizers import compared, other_order
from marlin_ckpt.loading.words import HINT
from marlin_ckpt.training.parallel.names import plain
from marlin_ckpt.training.sizes import accumulation

State = Mapping[str, Any]

_REQUIRED = ("last_epoch", "optimizers", "schedulers")
_NAMES = "optimizer_parameters"
_MOST_SHOWN = 4  # differences; the error has all


def names(optimizers: Sequence[Any], module: torch.nn.Module) -> dict[str, Any]:
    """The condition that says which parameters optimizers have, whose states do not; `check` compares it.

    Args:
        optimizers: the module's.
        module: that has the parameters.
    """
    return {_NAMES: [_names(one, module) for one in optimizers]}


def _names(optimizer: Any, module: torch.nn.Module) -> Names | None:
    # One that changes the states that it loads may put them into the order that it has.
    if not isinstance(optimizer, Optimizer) or changes_its_state(optimizer):
        return None
    named = {plain(name): one for name, one in module.named_parameters()}
    return names_in(optimizer, named)


def check(
    state: State,
    module: torch.nn.Module,
    optimizers: Sequence[Any],
    schedulers: Sequence[Any],
    args: TrainerArguments,
) -> None:
    """Compares a trainer's state with its optimizers and schedulers.

    Args:
        state: what `Trainer.get_state` returned once.
        module: what is trained.
        optimizers: the module's.
        schedulers: the module's.
        args: the trainer's; with `reset_optimizers_schedulers` the saved ones are not used, and need not fit.

    Raises:
        StateMismatchError: they differ; it lists in what.
    """
    differences = tuple(f"{name} is missing" for name in _REQUIRED if name not in state)
    if not (differences or args.reset_optimizers_schedulers):
        differences = tuple(_differences(state, module, optimizers, schedulers))
    if differences:
        shown, more = "; ".join(differences[:_MOST_SHOWN]), len(differences) - _MOST_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        what = f"the loaded state does not fit the trainer: {shown}{rest}"
        hint = f"{HINT}; trainer.reset_optimizers_schedulers: true makes new optimizers and schedulers"
        raise StateMismatchError(what, hint=hint, differences=differences)


def _differences(
    state: State, module: torch.nn.Module, optimizers: Sequence[Any], schedulers: Sequence[Any]
) -> Iterator[str]:
    for name, live in (("optimizers", optimizers), ("schedulers", schedulers)):
        if len(live) != len(state[name]):
            yield f"the checkpoint holds {len(state[name])} {name}, the module makes {len(live)}"
    known = state.get("conditions", {}).get(_NAMES)  # which older files have not
    saved_names: list[Names | None] = [
        one and [[plain(name) for name in group] for group in one]
        for one in known or [None] * len(optimizers)
    ]
    live_names = [_names(one, module) for one in optimizers]
    named = zip(optimizers, state["optimizers"], saved_names, live_names, strict=False)
    found = [
        told
        for number, (one, saved, *both) in enumerate(named)
        for told in compared(saved, one, f"optimizers[{number}]", *both)[0]
    ]
    if not found and (told := other_order(_all(saved_names), _all(live_names))):
        found = [f"the optimizers have each other's parameters in the file: {told}"]
    yield from found
    for number, (one, saved) in enumerate(zip(schedulers, state["schedulers"], strict=False)):
        yield from _scheduler_differences(f"schedulers[{number}]", one, saved)


def _all(named: Sequence[Names | None]) -> Names | None:
    """The names of all optimizers' parameters, where they are known of each."""
    return None if None in named else [group for names in named for group in names or ()]


def _scheduler_differences(name: str, live: Any, saved: Mapping[str, Any]) -> Iterator[str]:
    def known(keys: Mapping[str, Any]) -> set[str]:
        return {key for key in keys if not key.startswith("_")}  # torch's own, which its versions change

    state = live.state_dict()
    kind = type(live).__name__
    yield from (f"{name} lacks {key} of {kind}" for key in sorted(known(state) - known(saved)))
    yield from (f"{name} has {key}, {kind} has not" for key in sorted(known(saved) - known(state)))


def too_short(
    state: State, schedulers: Sequence[Any], args: TrainerArguments, steps_per_epoch: int
) -> list[str]:
    """Finds the saved schedules that would raise an error on the way, as OneCycleLR does after its last step.

    Args:
        state: what `Trainer.get_state` returned once.
        schedulers: the module's, before they load their states.
        args: the trainer's.
        steps_per_epoch: global steps in an epoch.
    """
    left = _left(state, args, steps_per_epoch)
    return [
        f"schedulers[{number}] was made for {saved['total_steps']} steps, and the run has {needed}"
        for number, (one, saved) in enumerate(zip(schedulers, state["schedulers"], strict=False))
        if isinstance(one, OneCycleLR) and "total_steps" in saved
        if (needed := saved["last_epoch"] + left) > saved["total_steps"] < one.total_steps
    ]


def _left(state: State, args: TrainerArguments, steps_per_epoch: int) -> int:
    """How often the schedulers will still be stepped."""
    epochs = args.epochs - int(state["last_epoch"]) - 1
    if args.step_schedulers_by == "epoch":
        return epochs
    batches = ((state.get("position") or {}).get("epoch") or {}).get("batches", 0)
    then = state.get("conditions") or {}  # whose batches are counted, if it says so
    size, world_size = then.get("train_batch_size", args.train_batch_size), then.get("world_size", 1)
    limit = then.get("gpu_batch_size_limit", args.gpu_batch_size_limit)
    done = -(-int(batches) // accumulation(size, limit, world_size))
    return epochs * steps_per_epoch - done
