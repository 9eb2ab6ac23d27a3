"""Has a part of the module on each rank: torch's FSDP2, `fully_shard`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from marlin_ckpt.distribution import FsdpArguments
from marlin_ckpt.errors import ConfigError, Fault
from marlin_ckpt.fields import suggestion
from marlin_ckpt.training.parallel import gathering
from marlin_ckpt.training.parallel.batches import NO_BATCH
from marlin_ckpt.training.parallel.sharing import Shared


class FullySharded(Shared):
    """Each rank has a part of each parameter, gathers the whole for a pass, and steps its part.

    Attributes:
        args: how.
    """

    has_own_buffers = True

    def __init__(self, args: FsdpArguments) -> None:
        """Takes how to shard the module."""
        super().__init__()
        self.args = args
        self._sharded: FSDPModule | None = None

    def take(self, module: nn.Module, device: torch.device) -> None:
        """Shards the module in its place, so that its optimizers are made for the parts.

        Raises:
            ConfigError: the module has none of the classes that are named.
        """
        module.to(device)
        dtype = None if self.args.mixed_precision == "float32" else getattr(torch, self.args.mixed_precision)
        reduced = None if dtype is None else torch.float32
        options: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (self.ranks.world_size,)),
            "reshard_after_forward": self.args.reshard_after_forward,
            "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduced),
        }
        for part in _parts(module, self.args):
            fully_shard(part, **options)
        self._sharded = fully_shard(module, **options)

    def step(self, *, is_full: bool) -> AbstractContextManager[Any]:
        """Sums the gradients when the step is full."""
        if self._sharded is not None:
            self._sharded.set_requires_gradient_sync(self._sums(is_full=is_full))
        return contextlib.nullcontext()

    def forward(self, module: nn.Module, *, is_training: bool, **arguments: Any) -> Any:  # noqa: ARG002
        """Calls the module with its hooks, which gather the parameters."""
        return module(**arguments)

    def clip(self, module: nn.Module, most: float) -> None:
        """Clips the norm of the gradients of all parts."""
        parameters = list(module.parameters())
        norm = nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        nn.utils.clip_grads_with_norm_(parameters, most, whole)

    def validation(self, module: nn.Module, loader: Iterable[Any]) -> Iterator[tuple[Any, bool]]:  # noqa: ARG002
        """The batches of this rank; where others have more, one that does not count: all gather together."""
        self.seen = 0
        last: Any = NO_BATCH
        for batch in loader:
            counts = batch is not NO_BATCH
            if last is NO_BATCH:  # the first: rank 0 has one if any rank has
                last = self._first(batch)
            last = batch if counts else last
            self.seen += gathering.samples(batch) if counts else 0
            yield last, counts

    def _first(self, batch: Any) -> Any:
        """The first batch of this rank, or of rank 0 where it has none."""
        if all(self.ranks.least(batch is not NO_BATCH)):
            return batch
        sent = self.ranks.told(gathering.packed(batch) if self.ranks.is_main else None)
        return gathering.unpacked(sent)


def _parts(module: nn.Module, args: FsdpArguments) -> list[nn.Module]:
    """The modules that are gathered one at a time, the inner ones first; all others are one with the root."""
    inner = [one for one in module.modules() if one is not module]
    if args.wrap == "auto":
        chosen = [part for one in inner if isinstance(one, nn.ModuleList) for part in one]
    else:
        kinds = dict.fromkeys(type(one).__name__ for one in inner)
        if unknown := [name for name in args.wrap if name not in kinds]:
            what = f"the module has no {unknown[0]}{suggestion(unknown[0], kinds)}"
            raise ConfigError([Fault("trainer.fsdp.wrap", what)])
        chosen = [one for one in inner if type(one).__name__ in args.wrap]
    return [
        one
        for one in reversed(inner)
        if any(one is part for part in chosen) and any(True for _ in one.parameters())
    ]
