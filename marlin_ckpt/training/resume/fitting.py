"""Finds out whether a trainer's state fits, before anything of it is taken over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from marlin_ckpt.errors import StateMismatchError

# What optimizers keep for each element of a parameter; other tensors of theirs have shapes of their own.
_ELEMENTWISE = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum", "exp_inf"}
_REQUIRED = ("last_epoch", "optimizers", "schedulers")


def check(
    state: Mapping[str, Any], optimizers: Sequence[Any], schedulers: Sequence[Any], *, resets: bool
) -> None:
    """Compares a trainer's state with its optimizers and schedulers.

    Args:
        state: what `Trainer.get_state` returned once.
        optimizers: the module's.
        schedulers: the module's.
        resets: whether its optimizers and schedulers are left aside.

    Raises:
        StateMismatchError: they differ; it lists in what.
    """
    missing = tuple(f"{name} is missing" for name in _REQUIRED if name not in state)
    differences = missing or (() if resets else tuple(_differences(state, optimizers, schedulers)))
    if differences:
        what = "the loaded state does not fit the trainer: " + "; ".join(differences)
        hint = "load a checkpoint of the same configuration; "
        hint += "trainer.reset_optimizers_schedulers: true makes new optimizers and schedulers"
        raise StateMismatchError(what, hint=hint, differences=differences)


def _differences(
    state: Mapping[str, Any], optimizers: Sequence[Any], schedulers: Sequence[Any]
) -> Iterator[str]:
    for name, live in (("optimizers", optimizers), ("schedulers", schedulers)):
        if len(live) != len(state[name]):
            yield f"the checkpoint holds {len(state[name])} {name}, the module makes {len(live)}"
    for number, (one, saved) in enumerate(zip(optimizers, state["optimizers"], strict=False)):
        yield from _optimizer_differences(f"optimizers[{number}]", one, saved)
    for number, (one, saved) in enumerate(zip(schedulers, state["schedulers"], strict=False)):
        yield from _scheduler_differences(f"schedulers[{number}]", one, saved)


def _optimizer_differences(name: str, live: torch.optim.Optimizer, saved: Any) -> Iterator[str]:
    groups = [len(group["params"]) for group in live.param_groups]
    saved_groups = [len(group["params"]) for group in saved["param_groups"]]
    if groups != saved_groups:
        yield f"{name} has parameter groups of {saved_groups} parameters, the module's of {groups}"
        return
    parameters = [one for group in live.param_groups for one in group["params"]]
    for key, tensors in saved["state"].items():
        shape = tuple(parameters[key].shape) if isinstance(key, int) and key < len(parameters) else None
        for what, tensor in tensors.items():
            if what in _ELEMENTWISE and shape is not None and tuple(tensor.shape) != shape:
                yield f"{name}.state[{key}].{what} is {tuple(tensor.shape)}, the parameter {shape}"


def _scheduler_differences(name: str, live: Any, saved: Mapping[str, Any]) -> Iterator[str]:
    def known(keys: Mapping[str, Any]) -> set[str]:
        return {key for key in keys if not key.startswith("_")}  # torch's own, which its versions change

    state = live.state_dict()
    kind = type(live).__name__
    yield from (f"{name} lacks {key} of {kind}" for key in sorted(known(state) - known(saved)))
    yield from (f"{name} has {key}, {kind} has not" for key in sorted(known(saved) - known(state)))
