"""How large a checkpoint will be once its optimizers have stepped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

# Tensors of a parameter's size that an optimizer of an unknown kind is taken to keep; Adam's number.
_UNKNOWN = 2


def predicted_bytes(state: object, optimizers: Iterable[Optimizer]) -> int:
    """How large a checkpoint will be once its optimizers have stepped.

    Args:
        state: what would be saved now.
        optimizers: whose states it holds, empty before their first step.
    """
    storages: dict[int, int] = {}
    _collect(state, storages, set())
    to_come = sum(
        parameter.nbytes * _tensors_kept(type(optimizer), group)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad and parameter not in optimizer.state and not is_lazy(parameter)
    )
    return int(sum(storages.values()) + to_come)


def _collect(value: object, storages: dict[int, int], seen: set[int]) -> None:
    if isinstance(value, torch.Tensor):
        if is_lazy(value):
            return  # its size is not known before the first step
        if value.layout is torch.strided:
            storage = value.untyped_storage()
            storages[storage._cdata] = storage.nbytes()  # noqa: SLF001 - a storage's identity, as in torch.save
        return
    if id(value) in seen:
        return
    if isinstance(value, Mapping):
        seen.add(id(value))
        for part in value.values():
            _collect(part, storages, seen)
    elif isinstance(value, (list, tuple)):
        seen.add(id(value))
        for part in value:
            _collect(part, storages, seen)


def _tensors_kept(kind: type[Optimizer], group: Mapping[str, object]) -> int:
    """How many tensors of a parameter's size an optimizer keeps for it, by its page in torch.optim."""
    counts = {
        "SGD": bool(group.get("momentum")),
        "Adagrad": 1,
        "Muon": 1,
        "RMSprop": 1 + bool(group.get("momentum")) + bool(group.get("centered")),
        "Adafactor": 0,  # keeps sums of rows and columns
        "Adam": 2 + bool(group.get("amsgrad")),
        "AdamW": 2 + bool(group.get("amsgrad")),
    }
    return int(next((counts[one.__name__] for one in kind.__mro__ if one.__name__ in counts), _UNKNOWN))
