"""The sentences about states that do not fit, or that were converted."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from marlin_ckpt.errors import MarlinError, StateMismatchError, Translating
from marlin_ckpt.formats.torch.failures import is_no_memory
from marlin_ckpt.loading.tensors import Conversion

_MOST_NAMED = 3
_LONGEST_REASON = 300  # characters
HINT = "load a checkpoint of the same configuration"
META_HINT = "give it memory first, such as by module.to_empty(device=...)"
PREFIX_HINT = "wrap the module as the one that was saved, or load without `into` and rename the tensors"
STRIP_HINT = "wrap the module as the one that was saved, or strip the prefix: strip_prefix={!r}"


def refusals(what: str, file: str = "") -> Translating:
    """Turns what an object raises that refuses a state into a StateMismatchError.

    Args:
        what: begins its message.
        file: that holds the state, where there is one.
    """

    def translate(error: Exception) -> None:  # a load_state_dict of the user's raises anything
        if isinstance(error, MarlinError) or is_no_memory(error):
            return
        reason = " ".join(str(error).split())  # torch lists every key, a line each
        shown = reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + " ..."
        raise StateMismatchError(f"{what}: {shown}", file, HINT) from error

    return Translating(translate)


def told_of(conversions: Sequence[Conversion]) -> Iterator[str]:
    """Says what was converted, and which values were lost by it."""
    kinds: dict[tuple[torch.dtype, torch.dtype], list[str]] = {}
    for one in conversions:
        kinds.setdefault((one.saved.dtype, one.dtype), []).append(one.name)
    for (saved, dtype), names in kinds.items():
        yield f"Converted from {saved} to {dtype}: {some(names)}"
    for one in conversions:
        if count := one.lost():
            shown = f"{count:,} of {one.saved.numel():,} values of {one.name}"
            yield f"Too large for {one.dtype}, and not finite any more: {shown}"


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def described(value: Any) -> str:
    """What kind of value stands in a place."""
    if isinstance(value, torch.Tensor):
        return "a tensor"
    if isinstance(value, torch.nn.Module):
        return "a module"
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"a {kind} of {len(value)}" if isinstance(value, (Mapping, list, tuple)) else f"a {kind}"


def join(path: str, key: Any) -> str:
    """The name of a part of what has a name."""
    return f"{path}.{key}" if path else str(key)
