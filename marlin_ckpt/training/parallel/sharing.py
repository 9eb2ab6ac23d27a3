"""The part that other ranks have in the steps of this one."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.training.parallel import alike, gathering
from marlin_ckpt.training.parallel.batches import NO_BATCH, Common

_SAME = (
    "Two ranks begin with the same batch, so that samples are {} more than once. Use the sampler that {} is "
    "given; in an IterableDataset, leave out the samples of the other ranks."
)
TRAINING = _SAME.format("trained on", "get_train_dataloader")
VALIDATION = _SAME.format("validated", "get_val_dataloaders")
_logger = get_logger(__name__)


class Sharing:
    """What the ranks of a run do together in the steps of a backend; with one process, as here, nothing.

    Attributes:
        ranks: of the run.
        seen: the samples of the last validation that this rank has looked at.
        has_own_buffers: whether each rank has buffers of its own, such as what BatchNorm has measured.
    """

    has_own_buffers = False

    def __init__(self) -> None:
        self.ranks = Ranks.alone()
        self.seen = 0

    def take(self, module: nn.Module, device: torch.device) -> None:
        """Takes the module, on its device, before it loads its state and makes its optimizers."""

    def begin(self, module: nn.Module) -> None:
        """Takes the module with its state, before the first step."""

    def before_save(self, module: nn.Module) -> None:
        """Called by all ranks before they take the module's state for a checkpoint."""

    def check_data(self, loader: Any, data_fingerprint: str) -> None:
        """Takes the loader of the training data, before its first batch.

        Args:
            loader: of this rank.
            data_fingerprint: of the module.
        """

    def batches(self, loader: Iterable[Any]) -> Iterable[Any]:
        """The batches to train on."""
        return loader

    def step(self, *, is_full: bool) -> AbstractContextManager[Any]:  # noqa: ARG002 - for those who share
        """The context of the forward and backward pass of a batch.

        Args:
            is_full: with this batch, the optimizers step.
        """
        return contextlib.nullcontext()

    def check_full(self) -> None:
        """Called before the optimizers step."""

    def forward(self, module: nn.Module, *, is_training: bool, **arguments: Any) -> Any:  # noqa: ARG002
        """Calls the module; without its hooks, as PyMarlin does."""
        return module.forward(**arguments)

    def clip(self, module: nn.Module, most: float) -> None:
        """Clips the norm of all gradients."""
        nn.utils.clip_grad_norm_(module.parameters(), most)

    def end_epoch(self) -> None:
        """Called by all ranks after an epoch and its validation."""

    def validation(self, module: nn.Module, loader: Iterable[Any]) -> Iterator[tuple[Any, bool]]:  # noqa: ARG002
        """The batches to validate on, each with whether its outputs count."""
        return ((batch, True) for batch in loader)

    def gathered(self, outputs: list[Any]) -> list[Any]:
        """The outputs of all ranks, from those of this one, as they were collated."""
        return outputs


class Shared(Sharing):
    """What data-parallel backends have in common."""

    _common: Common | None = None
    _is_summed = True  # whether the gradients are those of all ranks
    _has_checked_data = False

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def check_data(self, loader: Any, data_fingerprint: str) -> None:
        """Refuses training data that differ between ranks; in the first epoch, since it takes a while."""
        if not self._has_checked_data:
            self._has_checked_data = True
            warning = alike.check_data(self.ranks, loader, data_fingerprint)
            if warning and self.ranks.is_main:
                _logger.warning(warning)

    def batches(self, loader: Iterable[Any]) -> Iterable[Any]:
        """As many at each rank."""
        self._common = Common(loader, self.ranks)
        return self._compared(self._common, TRAINING)

    def _compared(self, batches: Iterable[Any], what: str) -> Iterator[Any]:
        """The same batches; warns once where two ranks begin with the same one."""
        for number, batch in enumerate(batches):
            if number == 0 and gathering.are_repeated(self.ranks, () if batch is NO_BATCH else batch):
                if self.ranks.is_main and what not in self._warned:
                    _logger.warning(what)
                self._warned.add(what)
            yield batch

    def _sums(self, *, is_full: bool) -> bool:
        """Whether the gradients of a batch are to be summed with it: they wait until the step is full."""
        # Where it is not known which batch is the last, each could be.
        left = None if self._common is None else self._common.left
        self._is_summed = is_full or not left
        return self._is_summed

    def check_full(self) -> None:
        """Refuses to step with gradients of this rank alone.

        Raises:
            TrainingError: the loader has ended before the number of batches that it had said.
        """
        if not self._is_summed:
            what = "the training data ended before the number of batches that its loader has said"
            raise TrainingError(what, hint="its __len__ must be the number of its batches")

    def validation(self, module: nn.Module, loader: Iterable[Any]) -> Iterator[tuple[Any, bool]]:  # noqa: ARG002
        """The batches of this rank."""
        self.seen = 0
        for batch in self._compared(loader, VALIDATION):
            if batch is not NO_BATCH:
                self.seen += gathering.samples(batch)
                yield batch, True

    def gathered(self, outputs: list[Any]) -> list[Any]:
        """The outputs of all ranks, in the order of the data where each sample, or each batch, has one."""
        return gathering.gathered(self.ranks, outputs)


class DataParallel(Shared):
    """Each rank has a copy of the module, and the gradients are averaged: torch's DDP."""

    _copy: DistributedDataParallel
    _module: nn.Module
    _trained: tuple[nn.Parameter, ...] = ()

    def begin(self, module: nn.Module) -> None:
        """Takes the parameters and buffers of rank 0 into the copies of the others."""
        self._module = module
        self._trained = _trained(module)
        # DDP would put its buckets into the order of the first backward pass, and a resumed run would sum
        # gradients in another order than the run that was never stopped; not where parameters may be unused,
        # which PyMarlin allows too.
        self._copy = DistributedDataParallel(_WithUnused(module), find_unused_parameters=True)

    def before_save(self, module: nn.Module) -> None:
        """Takes the buffers of rank 0, as the next forward pass does, so that any rank may write them."""
        _take_buffers(module)

    def step(self, *, is_full: bool) -> AbstractContextManager[Any]:
        """Averages the gradients when the step is full, also of parameters that were frozen until now."""
        now = _trained(self._module)
        # DDP leaves the gradients of a parameter that was frozen when it began to each rank, for ever.
        if len(now) != len(self._trained) or any(map(operator.is_not, now, self._trained)):
            self.begin(self._module)
        return contextlib.nullcontext() if self._sums(is_full=is_full) else self._copy.no_sync()

    def forward(self, module: nn.Module, *, is_training: bool, **arguments: Any) -> Any:
        """Calls the copy; in a validation the module, whose ranks may have more batches than others."""
        return self._copy(**arguments) if is_training else module.forward(**arguments)

    def end_epoch(self) -> None:
        """Warns once where the copies are no longer the same, of which rank 0's is saved."""
        if name := alike.copies_differ(self.ranks, self._module):
            what = (
                f"The parameter {name} is no longer the same at all ranks: something changes it, or its "
                "learning rate, at each rank otherwise. Checkpoints hold that of rank 0."
            )
            if self.ranks.is_main and name not in self._warned:
                _logger.warning(what)
            self._warned.add(name)

    def validation(self, module: nn.Module, loader: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
        """The batches of this rank, with the buffers of rank 0, as a resumed run would have them."""
        _take_buffers(module)
        yield from super().validation(module, loader)


def _trained(module: nn.Module) -> tuple[nn.Parameter, ...]:
    return tuple(one for one in module.parameters() if one.requires_grad)


class _WithUnused(nn.Module):
    """A module beside a parameter that is not used: DDP warns where it looks for such and finds none."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        like = next((one for one in module.parameters() if one.requires_grad), torch.empty(0))
        self.unused = nn.Parameter(torch.zeros(1, dtype=like.dtype, device=like.device))

    def forward(self, **arguments: Any) -> Any:
        return self.module.forward(**arguments)


def _take_buffers(module: nn.Module) -> None:
    """Takes over the buffers of rank 0: those of one type in one go."""
    kinds: dict[Any, list[torch.Tensor]] = {}
    for one in module.buffers():
        kinds.setdefault((one.dtype, one.device), []).append(one)
    for buffers in kinds.values():
        flat = torch.cat([one.detach().reshape(-1) for one in buffers])
        dist.broadcast(flat, 0)
        parts = torch.split(flat, [one.numel() for one in buffers])
        with torch.no_grad():
            for one, part in zip(buffers, parts, strict=True):
                one.copy_(part.view_as(one))
