"""What a run's next step depends on besides its state: a resume under other conditions is another run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.distribution import FsdpArguments
from marlin_ckpt.training.resume import made

# index_by: one directory would hold both kinds of index, and the greatest one would be loaded.
_ARGUMENTS = (
    "train_batch_size", "gpu_batch_size_limit", "max_train_steps_per_epoch", "clip_grads", "max_grad_norm",
    "step_schedulers_by", "backend", "amp_dtype", "deterministic", "index_by",
)  # fmt: skip

_OF_FSDP = ("wrap", "mixed_precision")  # in which order gradients are summed, and how precisely


class Change(NamedTuple):
    """A condition that is not what it was.

    Attributes:
        name: of the condition.
        before: in the run that saved.
        now: in the run that resumes.
    """

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} was {_shown(self.before)} and is {_shown(self.now)}"

    def in_force(self, values: Mapping[str, Any]) -> str:
        """The change in words, once the state was loaded.

        Args:
            values: of the hyper-parameters, as they are since then.
        """
        value = values.get(self.name, self.now)
        if value == self.now:
            return str(self)
        return f"{self.name} stays {_shown(value)}, as saved, and the module's {_shown(self.now)} is not used"


def of(
    args: TrainerArguments, device: torch.device, data_fingerprint: str, world_size: int = 1
) -> dict[str, Any]:
    """The conditions of a run, by their names; those of its training data come from `loaders`.

    Args:
        args: the trainer's.
        device: that it trains on.
        data_fingerprint: of its module.
        world_size: the number of ranks.
    """
    sharded = (args.fsdp or FsdpArguments()) if args.backend == "fsdp2" else None
    return {
        **{name: getattr(args, name) for name in _ARGUMENTS},
        **({f"fsdp.{name}": getattr(sharded, name) for name in _OF_FSDP} if sharded else {}),
        "world_size": world_size,
        "device": device.type,
        "torch": str(torch.__version__),
        "data_fingerprint": str(data_fingerprint),
    }


def of_made(
    optimizers: Sequence[Optimizer], schedulers: Sequence[Any], epochs: int, steps_per_epoch: int
) -> dict[str, Any]:
    """The conditions that lie in optimizers and schedulers.

    Args:
        optimizers: as the module made them.
        schedulers: as the module made them.
        epochs: that it made them for.
        steps_per_epoch: that it made them for.
    """
    found = made.hyper_parameters(optimizers, schedulers)
    if made.is_hidden(schedulers):  # and may come from these
        found |= {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What has changed; conditions that only one of the two has are ignored.

    Args:
        before: the conditions of the run that saved.
        now: those of the run that resumes.
    """
    return [
        Change(name, before[name], value)
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str) else repr(value)
