"""How large a checkpoint will be once its optimizers have stepped."""

from collections.abc import Iterable, Mapping

import torch
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from marlin_ckpt.saving.copying.owners import local_of, tensors_in

# Tensors of a parameter's size that an optimizer of an unknown kind is taken to keep; Adam's number.
_UNKNOWN = 2


def predicted_bytes(state: object, optimizers: Iterable[Optimizer]) -> int:
    """How large a checkpoint, or a rank's part of it, will be once its optimizers have stepped.

    Args:
        state: what would be saved now.
        optimizers: whose states it holds, empty before their first step.
    """
    return sum(_sizes(state, optimizers))


def changing_bytes(state: object, optimizers: Iterable[Optimizer]) -> int:
    """How many of these bytes are of what the optimizers step, and keep for that; all else may be frozen."""
    return sum(_sizes(state, optimizers, of_optimizers=True))


def _sizes(state: object, optimizers: Iterable[Optimizer], *, of_optimizers: bool = False) -> tuple[int, int]:
    """The bytes that a state has now, and those that are still to come."""
    optimizers = [*optimizers]
    # The size of a lazy parameter is not known before the first step.
    found = (local_of(one) for one in tensors_in(state))
    dense = [one for one in found if not is_lazy(one) and one.layout is torch.strided]
    storages = [tensor.untyped_storage() for tensor in dense]
    now = {one._cdata: one.nbytes() for one in storages}  # noqa: SLF001 - a storage's identity, as in torch.save
    to_come = sum(
        local_of(parameter).nbytes * _tensors_kept(type(optimizer), group)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad and parameter not in optimizer.state and not is_lazy(parameter)
    )
    if of_optimizers:
        now = {key: now[key] for key in _stepped(optimizers) & now.keys()}
    return int(sum(now.values())), int(to_come)


def _stepped(optimizers: Iterable[Optimizer]) -> set[int]:
    """What identifies the storages of parameters that optimizers step, and of what they keep of them."""
    found: list[torch.Tensor] = []
    for one in optimizers:
        stepped = [each for group in one.param_groups for each in group["params"] if each.requires_grad]
        found += [each for each in stepped if not is_lazy(each)]
        found += tensors_in(dict(one.state))
    dense = (one for one in map(local_of, found) if one.layout is torch.strided)
    return {one.untyped_storage()._cdata for one in dense}  # noqa: SLF001 - as above


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
