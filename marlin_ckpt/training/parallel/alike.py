"""Compares what the ranks have made: what differs would train on, and no rank would notice."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import ConcatDataset, RandomSampler, Subset

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.distributed.failures import of_all, together
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training.resume import loaders
from marlin_ckpt.training.resume.leaves import fingerprint
from marlin_ckpt.training.resume.order import EpochSampler

Named = Sequence[tuple[str, str]]  # names, each with a text that says what is compared
# In which ranks may differ.
_OF_EACH = ("data_fingerprint", "device", "log_level", "checkpointer_args", "distributed_training_args")
_SHUFFLED = (
    "The training loader shuffles by itself, so that each rank trains on all samples: use the sampler that "
    "get_train_dataloader is given, unless the data set of each rank is a part of its own."
)


def first_difference(ranks: Ranks, found: Named) -> str | None:
    """The name of the first item in which ranks differ; None where they do not.

    Args:
        ranks: that all call this.
        found: of this one.
    """
    if ranks.are_alike(_digest(found)):
        return None
    of_main = ranks.told(found)
    both = zip([*found, ("", "nothing")], [*of_main, ("", "nothing")], strict=False)
    at = next((place for place, (own, main) in enumerate(both) if own != main), len(of_main))
    first = ranks.least(at)[0]
    return of_main[first][0] if first < len(of_main) else "one that rank 0 has not"


def _digest(found: Named) -> int:
    return int.from_bytes(hashlib.blake2b(repr(found).encode(), digest_size=8).digest()) >> 1


def check(ranks: Ranks, module: nn.Module, *, with_buffers: bool = False) -> None:
    """Refuses modules that the ranks have made with different parameters, or without values.

    Args:
        ranks: that all call this.
        module: of this one.
        with_buffers: the buffers, too, which nothing else makes the same.

    Raises:
        TrainingError: parameters differ, and it names the first; or one is on the meta device.
    """
    found = together(ranks, lambda: _fingerprints(module, with_buffers=with_buffers))
    if name := first_difference(ranks, found):
        of = "parameters or buffers" if with_buffers else "parameters"
        what = f"the ranks have made their modules with different {of}; the first that differs is {name}"
        hint = "call torch.manual_seed before the module is made, which may not depend on the rank"
        raise TrainingError(what, hint=hint)


def copies_differ(ranks: Ranks, module: nn.Module) -> str | None:
    """The name of the first parameter of which ranks have different copies; None where there is none.

    Args:
        ranks: that all call this.
        module: of this one.
    """
    return first_difference(ranks, _fingerprints(module, with_buffers=False))


def _fingerprints(module: nn.Module, *, with_buffers: bool) -> list[tuple[str, str]]:
    """The name of each parameter with a fingerprint of its values."""
    for name, one in module.named_parameters():
        if one.device == torch.device("meta"):
            what = f"the parameter {name} has no values: it is on torch's meta device"
            raise TrainingError(what, hint="make the module on the CPU; it is sharded from there")
    named = [*module.named_parameters(), *(module.named_buffers() if with_buffers else ())]
    return [(name, fingerprint(one)) for name, one in named]


def check_owners(ranks: Ranks, module: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Refuses optimizers that would step other tensors than those whose gradients the ranks share.

    Such are those that a module makes before it is sharded, and what a module has in a plain list.

    Args:
        ranks: that all call this.
        module: what is trained.
        optimizers: the module's.

    Raises:
        TrainingError: a tensor of an optimizer is no parameter of the module.
    """

    def look() -> None:
        own = {id(one) for one in module.parameters()}
        for number, each in enumerate(optimizers):
            groups = enumerate(each.param_groups)
            strangers = [place for place, group in groups for one in group["params"] if id(one) not in own]
            if strangers:
                what = "has a tensor that is no parameter of the module, so that each rank would step its own"
                hint = (
                    "make the optimizers in get_optimizers_schedulers, of self.parameters(), and have what "
                    "is trained in a Parameter, a Module or a ModuleList of the module"
                )
                where = f"optimizers[{number}].param_groups[{strangers[0]}]"
                raise TrainingError(f"{where} {what}", hint=hint)

    together(ranks, look)


def check_arguments(ranks: Ranks, args: TrainerArguments, conditions: Mapping[str, Any]) -> None:
    """Refuses ranks that would train in different ways, such as with different learning rates.

    Args:
        ranks: that all call this.
        args: the trainer's.
        conditions: of the run, as this rank has them.

    Raises:
        TrainingError: they differ, and it names the first.
    """
    given = {
        f"trainer.{one.name}": getattr(args, one.name) for one in fields(args) if one.name not in _OF_EACH
    }
    both = {**given, **conditions}
    found = [(name, repr(value)) for name, value in both.items() if name not in _OF_EACH]
    if name := first_difference(ranks, found):
        what = f"the ranks would train in different ways: {name} differs"
        hint = "start all ranks with one configuration, and let nothing in the module depend on the rank"
        raise of_all(TrainingError(what, hint=hint))


def check_data(ranks: Ranks, loader: Any, data_fingerprint: str) -> str | None:
    """Refuses training data of which ranks would take samples twice; says where they do so by a sampler.

    Args:
        ranks: that all call this.
        loader: of the training data of this one.
        data_fingerprint: of the module of this one.

    Returns:
        a warning; None where there is none.

    Raises:
        TrainingError: the sampler is ours, and the ranks have different data, or fewer samples than ranks.
    """
    sampler = loaders.sampler(loader)
    is_ours = isinstance(sampler, EpochSampler)
    described = [("the sampler", type(sampler).__qualname__), ("data_fingerprint()", data_fingerprint)]
    described += together(ranks, lambda: list(_described(getattr(loader, "dataset", None), "dataset")))
    name = first_difference(ranks, described)
    if not ranks.most(is_ours)[0]:
        return _SHUFFLED if name is None and type(sampler) is RandomSampler else None
    if name:
        what = f"each rank would take a part of other training data: {name} differs between ranks"
        hint = "make the data alike at all ranks; split them with a generator that has a seed of its own"
        raise of_all(TrainingError(what, hint=hint))
    if (count := len(sampler.data_source)) < ranks.world_size:
        what = f"there are fewer training samples ({count}) than ranks ({ranks.world_size})"
        raise of_all(TrainingError(what, hint="start fewer ranks"))
    return None


def _described(data: Any, path: str) -> Iterator[tuple[str, str]]:
    """What shows whether two ranks have the same data, without reading any."""
    with contextlib.suppress(TypeError, NotImplementedError):  # of no known length
        yield f"len({path})", str(len(data))
    yield path, type(data).__qualname__
    if isinstance(data, Subset):
        indices = hashlib.blake2b(repr(list(map(int, data.indices))).encode())
        yield f"{path}.indices", indices.hexdigest()
        yield from _described(data.dataset, f"{path}.dataset")
    if isinstance(data, ConcatDataset):
        for number, one in enumerate(data.datasets):
            yield from _described(one, f"{path}.datasets[{number}]")
