"""What a run's next step depends on besides its state: a resume under other conditions is another run."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from marlin_ckpt.arguments import TrainerArguments

_PLAIN = (bool, int, float, str, type(None))
# index_by: one directory would hold both kinds of index, and the greatest one would be loaded.
_ARGUMENTS = (
    "train_batch_size", "gpu_batch_size_limit", "max_train_steps_per_epoch", "clip_grads", "max_grad_norm",
    "step_schedulers_by", "backend", "amp_dtype", "deterministic", "index_by",
)  # fmt: skip


def of(
    args: TrainerArguments,
    device: torch.device,
    data_fingerprint: str,
    optimizers: Iterable[torch.optim.Optimizer],
) -> dict[str, Any]:
    """The conditions of a run, by their names.

    Args:
        args: the trainer's.
        device: that it trains on.
        data_fingerprint: of its module.
        optimizers: as the module made them.
    """
    return {
        **{name: getattr(args, name) for name in _ARGUMENTS},
        "world_size": 1,
        "device": device.type,
        "torch": str(torch.__version__),
        "data_fingerprint": str(data_fingerprint),
        **_hyper_parameters(optimizers),
    }


def _hyper_parameters(optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Any]:
    """The hyper-parameters that the module gave its optimizers, before a schedule changed them, by name."""
    return {
        f"optimizers[{number}].param_groups[{place}].{name}": value
        for number, optimizer in enumerate(optimizers)
        for place, group in enumerate(optimizer.param_groups)
        for name, given in group.items()
        if (value := _plain(given)) is not NotImplemented
    }


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (tuple, list)) and all(isinstance(one, _PLAIN) for one in value):
        return list(value) if value else NotImplemented
    return value if isinstance(value, _PLAIN) else NotImplemented


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed, a sentence each; conditions that only one of the two has are ignored.

    Args:
        before: the conditions of the run that saved.
        now: those of the run that resumes.
    """
    return [
        f"{name} was {_shown(before[name])} and is {_shown(value)}"
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str) else repr(value)
