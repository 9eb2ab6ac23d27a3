"""Compares the saved state of an optimizer with a live optimizer; whoever loads one asks here."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from marlin_ckpt.formats.torch.parameters import Names
from marlin_ckpt.loading.tensors import of_kind

# What optimizers of torch keep for each element of a parameter; other tensors have shapes of their own.
_ELEMENTWISE = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum", "exp_inf"}


class Kept(NamedTuple):
    """A tensor that an optimizer keeps for a parameter.

    Attributes:
        number: of the parameter, in the order of the groups.
        what: its key there, `exp_avg`.
        saved: as it was saved.
        live: as the optimizer has it; None as long as it has not stepped.
        shape: that it must have.
        dtype: that the optimizer will give it: torch casts to that of the parameter.
    """

    number: int
    what: str
    saved: torch.Tensor
    live: torch.Tensor | None
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """Where the state has it, `state[0].exp_avg`."""
        return f"state[{self.number}].{self.what}"


def compared(
    saved: Any, live: Optimizer, name: str, saved_names: Names | None = None, live_names: Names | None = None
) -> tuple[list[str], list[Kept]]:
    """Compares a saved state with an optimizer.

    Args:
        saved: what the optimizer's `state_dict` returned once, or what a file holds in its place.
        live: the optimizer.
        name: of the optimizer, for the sentences.
        saved_names: of the saved optimizer's parameters, group by group, where they are known.
        live_names: the same of the live one's.

    Returns:
        why it does not fit, in sentences, and if it does, the saved tensors.
    """
    if of_groups := _of_groups(saved, live, name, saved_names, live_names):
        return [of_groups], []
    kept = list(_kept(saved, live))
    told = [f"{name}.{one.name} {why}" for one in kept if (why := _misfit(one))]
    return told, [] if told else kept


def _of_groups(
    saved: Any, live: Optimizer, name: str, saved_names: Names | None, live_names: Names | None
) -> str:
    """Why the parameters are not those of the live optimizer, as a sentence; "" where they are."""
    if not _is_state(saved):
        return f"{name} is no state of an optimizer in the file"
    both = live.param_groups, saved["param_groups"]
    sizes, saved_sizes = ([len(group["params"]) for group in groups] for groups in both)
    if sizes != saved_sizes:
        return f"{name} has groups of {saved_sizes} parameters in the file, of {sizes} here"
    if any(one.is_meta for group in live.param_groups for one in group["params"]):
        return f"{name} has parameters on the meta device here, where nothing can be loaded into it"
    if told := other_order(_own_names(both[1]) or saved_names, _own_names(both[0]) or live_names):
        return f"{name} has its parameters in another order in the file: {told}"
    return ""


def _misfit(one: Kept) -> str:
    if why := of_kind(one.saved, one.live):
        return why
    if one.saved.shape == one.shape:
        return ""
    return f"is {tuple(one.saved.shape)} in the file, {tuple(one.shape)} here"


def _own_names(groups: Sequence[Mapping[str, Any]]) -> Names | None:
    """The names that an optimizer keeps which was made of named parameters."""
    names = [one.get("param_names") for one in groups]
    is_named = all(isinstance(one, list) and all(isinstance(name, str) for name in one) for one in names)
    return [list(one or ()) for one in names] if is_named else None


def other_order(saved: Names | None, live: Names | None) -> str:
    """The first place at which the same names stand in another order, in words; "" where there is none.

    Args:
        saved: in the file, where they are known.
        live: here.
    """
    if saved is None or live is None:
        return ""
    theirs: list[str]
    ours: list[str]
    theirs, ours = ([name for group in one for name in group] for one in (saved, live))
    if sorted(theirs) != sorted(ours):  # renamed meanwhile, which the module has to judge
        return ""
    pairs = enumerate(zip(theirs, ours, strict=True))
    return next((f"number {n} is {a} there, {b} here" for n, (a, b) in pairs if a != b), "")


def _is_state(saved: Any) -> bool:
    return (
        isinstance(saved, Mapping)
        and isinstance(saved.get("param_groups"), (list, tuple))
        and all(
            isinstance(one, Mapping) and isinstance(one.get("params"), (list, tuple))
            for one in saved["param_groups"]
        )
        and all(isinstance(key, (int, str)) for one in saved["param_groups"] for key in one["params"])
        and isinstance(saved.get("state"), Mapping)
        and all(isinstance(one, Mapping) for one in saved["state"].values())
    )


def _kept(saved: Mapping[str, Any], live: Optimizer) -> Iterator[Kept]:
    """The saved tensors whose shape is given: by the live one, or else by the parameter."""
    state = live.state_dict()
    own_keys, saved_keys = (
        [key for group in one["param_groups"] for key in group["params"]] for one in (state, saved)
    )
    parameters = [parameter for group in live.param_groups for parameter in group["params"]]
    for number, (own_key, key) in enumerate(zip(own_keys, saved_keys, strict=True)):
        own, parameter = state["state"].get(own_key, {}), parameters[number]
        is_floating = parameter.is_floating_point()
        for what, value in saved["state"].get(key, {}).items():
            if not isinstance(value, torch.Tensor):
                continue
            mine = own.get(what)
            dtype = parameter.dtype if is_floating and what != "step" else value.dtype
            if isinstance(mine, torch.Tensor):
                yield Kept(number, what, value, mine, mine.shape, dtype)
            elif what in _ELEMENTWISE:
                yield Kept(number, what, value, None, parameter.shape, dtype)
