"""What the module gave its optimizers and schedulers when it made them, by name."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_PLAIN = (bool, int, float, str, type(None))
# Of a scheduler: what follows from its optimizer, which is compared by itself, and its counts.
_FOLLOWS = {"base_lrs", "last_epoch"}
_NESTED = ("_schedulers", "_milestones")


def hyper_parameters(optimizers: Iterable[Optimizer], schedulers: Iterable[Any]) -> dict[str, Any]:
    """Those of all optimizers and schedulers, `optimizers[0].param_groups[0].lr`, as they are now.

    Args:
        optimizers: the module's.
        schedulers: the module's.
    """
    groups = {
        f"optimizers[{number}].param_groups[{place}].{name}": value
        for number, optimizer in enumerate(optimizers)
        for place, group in enumerate(optimizer.param_groups)
        for name, given in group.items()
        if name != "params" and (value := _plain(given)) is not NotImplemented
    }
    for number, scheduler in enumerate(schedulers):
        groups.update(_of_schedule(f"schedulers[{number}]", scheduler.state_dict()))
    return groups


def _of_schedule(path: str, state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, given in state.items():
        if name == "_schedulers" and isinstance(given, (list, tuple)):
            for number, one in enumerate(given):
                if isinstance(one, Mapping):
                    yield from _of_schedule(f"{path}._schedulers[{number}]", one)
        elif name not in _FOLLOWS and (name in _NESTED or not name.startswith("_")):
            value = sorted(given.items()) if isinstance(given, Mapping) else given
            if (plain := _plain(value)) is not NotImplemented:
                yield f"{path}.{name}", plain


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (tuple, list)):
        each = [_plain(one) for one in value]
        return NotImplemented if not each or NotImplemented in each else each
    return value if isinstance(value, _PLAIN) else NotImplemented


def is_hidden(schedulers: Iterable[Any]) -> bool:
    """Whether a schedule may depend on what its state does not show, such as a function's closure."""
    return any(_is_hidden(one) for one in schedulers)


def _is_hidden(scheduler: Any) -> bool:
    own = type(scheduler).state_dict
    if not type(scheduler).__module__.startswith("torch.optim.") and own is not LRScheduler.state_dict:
        return True
    values = [value for name, value in vars(scheduler).items() if name != "optimizer"]
    return any(map(_hides, values))


def _hides(value: Any) -> bool:
    if hasattr(value, "state_dict") and hasattr(value, "last_epoch"):
        return _is_hidden(value)
    if isinstance(value, Mapping):
        return any(map(_hides, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_hides, value))
    return not isinstance(value, (*_PLAIN, torch.Tensor))
