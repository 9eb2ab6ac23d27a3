"""Turns live objects into their states, as whoever calls `state_dict` by hand would."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from marlin_ckpt.saving.replacing import replaced

_LIVE = (torch.nn.Module, Optimizer, LRScheduler, torch.amp.GradScaler)


def states_of(whole: Any) -> Any:
    """A structure with the state of each module, optimizer, scheduler and gradient scaler in its place.

    Args:
        whole: such an object, or dicts, lists and tuples that hold some; all else stays as it is.

    Raises:
        UnsavableStateError: it is nested too deeply.
    """
    return replaced(whole, _is_live, lambda one: one.state_dict() if _is_live(one) else one)


def optimizers_in(whole: Any) -> Iterator[Optimizer]:
    """The optimizers that are reached through dicts, lists and tuples."""
    pending, seen = [whole], set[int]()
    while pending:
        value = pending.pop()
        if isinstance(value, Optimizer):
            yield value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(value.values() if isinstance(value, Mapping) else value)


def _is_live(value: Any) -> bool:
    return isinstance(value, _LIVE)
