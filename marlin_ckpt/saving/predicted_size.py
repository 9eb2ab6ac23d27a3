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
    return int(sum(now.values()) + to_come)


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
