"""Compares the saved state of an optimizer with a live optimizer; whoever loads one asks here."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

# What optimizers of torch keep for each element of a parameter; other tensors have shapes of their own.
_ELEMENTWISE = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum", "exp_inf"}


class Kept(NamedTuple):
    """A tensor that an optimizer keeps for a parameter.

    Attributes:
        name: where the state has it, `state[0].exp_avg`; parameters are numbered in the order of the groups.
        saved: as it was saved.
        live: as the optimizer has it; None as long as it has not stepped.
        shape: that it must have.
    """

    name: str
    saved: torch.Tensor
    live: torch.Tensor | None
    shape: tuple[int, ...]


def differences(saved: Any, live: Optimizer, name: str) -> list[str]:
    """Says why a saved state does not fit.

    Args:
        saved: what the optimizer's `state_dict` returned once, or what a file holds in its place.
        live: the optimizer.
        name: of the optimizer, for the sentences.
    """
    if not _is_state(saved):
        return [f"{name} is no state of an optimizer in the file"]
    both = live.param_groups, saved["param_groups"]
    sizes, saved_sizes = ([len(group["params"]) for group in groups] for groups in both)
    if sizes != saved_sizes:
        return [f"{name} has groups of {saved_sizes} parameters in the file, of {sizes} here"]
    return [
        f"{name}.{one.name} is {tuple(one.saved.shape)} in the file, {one.shape} here"
        for one in kept(saved, live)
        if one.saved.shape != one.shape
    ]


def _is_state(saved: Any) -> bool:
    return (
        isinstance(saved, Mapping)
        and isinstance(saved.get("param_groups"), (list, tuple))
        and all(isinstance(one, Mapping) and "params" in one for one in saved["param_groups"])
        and isinstance(saved.get("state"), Mapping)
        and all(isinstance(one, Mapping) for one in saved["state"].values())
    )


def kept(saved: Mapping[str, Any], live: Optimizer) -> Iterator[Kept]:
    """The saved tensors whose shape is given: by the live one, or by the parameter where there is none yet.

    Args:
        saved: a state with as many parameters in each group as the optimizer has.
        live: the optimizer.
    """
    state = live.state_dict()
    own_keys, saved_keys = (
        [key for group in one["param_groups"] for key in group["params"]] for one in (state, saved)
    )
    parameters = [parameter for group in live.param_groups for parameter in group["params"]]
    for number, (own_key, key) in enumerate(zip(own_keys, saved_keys, strict=True)):
        own = state["state"].get(own_key, {})
        for what, value in saved["state"].get(key, {}).items():
            if not isinstance(value, torch.Tensor):
                continue
            name, mine = f"state[{number}].{what}", own.get(what)
            if isinstance(mine, torch.Tensor):
                yield Kept(name, value, mine, tuple(mine.shape))
            elif what in _ELEMENTWISE:
                yield Kept(name, value, None, tuple(parameters[number].shape))
