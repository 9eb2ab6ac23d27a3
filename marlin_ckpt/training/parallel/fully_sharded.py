"""Has a part of the module on each rank: torch's FSDP2, `fully_shard`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
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
from marlin_ckpt.training.parallel.passes import Passes
from marlin_ckpt.training.parallel.sharing import VALIDATION, Shared


class FullySharded(Shared):
    """Each rank has a part of each parameter, gathers the whole for a pass, and steps its part.

    Attributes:
        args: how.
    """

    has_own_buffers = True
    _sharded: FSDPModule
    _module: nn.Module
    _passes: Passes

    def __init__(self, args: FsdpArguments) -> None:
        """Takes how to shard the module."""
        super().__init__()
        self.args = args

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
        parts = _parts(module, self.args)
        _check_ties(module, parts.values())
        for part in parts.values():
            fully_shard(part, **options)
        self._sharded = fully_shard(module, **options)
        self._module = module
        self._passes = Passes({**parts, "the module": module})

    @contextlib.contextmanager
    def step(self, *, is_full: bool) -> Iterator[None]:
        """Sums the gradients when the step is full."""
        is_summed = self._sums(is_full=is_full)
        self._sharded.set_requires_gradient_sync(is_summed)
        yield
        if is_summed:
            self._passes.note_gradients(self._module)

    def check_full(self) -> None:
        """Refuses to step also where ranks have run different parts of the module."""
        super().check_full()
        self._passes.compare(self.ranks)

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
        """The batches of this rank; where others have more, it gathers the parameters with them.

        A rank that has none at all runs the first of rank 0, which does not count.
        """
        self.seen = 0
        has_run = False
        for batch in self._compared(loader, VALIDATION):
            if batch is not NO_BATCH:
                self.seen += gathering.samples(batch)
            if has_run and batch is NO_BATCH:
                self._passes.repeat()
                continue
            first = batch if has_run else self._first(batch)
            has_run = True
            self._passes.begin()
            yield first, batch is not NO_BATCH
        self._passes.compare(self.ranks)

    def _first(self, batch: Any) -> Any:
        """The first batch of this rank, or of rank 0 where it has none."""
        if all(self.ranks.least(batch is not NO_BATCH)):
            return batch
        sent = self.ranks.told(gathering.packed(batch) if self.ranks.is_main else None)
        return gathering.unpacked(sent) if batch is NO_BATCH else batch


def _parts(module: nn.Module, args: FsdpArguments) -> dict[str, nn.Module]:
    """The modules that are gathered one at a time, by their names, the inner ones first.

    All others are one with the root.
    """
    inner = {name: one for name, one in module.named_modules() if one is not module}
    if args.wrap == "auto":
        chosen = [part for one in inner.values() if isinstance(one, nn.ModuleList) for part in one]
    else:
        kinds = dict.fromkeys(type(one).__name__ for one in inner.values())
        if unknown := [name for name in args.wrap if name not in kinds]:
            what = f"the module has no {unknown[0]}{suggestion(unknown[0], kinds)}"
            raise ConfigError([Fault("trainer.fsdp.wrap", what)])
        chosen = [one for one in inner.values() if type(one).__name__ in args.wrap]
    taken = set(map(id, chosen))
    return {
        name: one
        for name, one in reversed(inner.items())
        if id(one) in taken and any(True for _ in one.parameters())
    }


def _check_ties(module: nn.Module, parts: Iterable[nn.Module]) -> None:
    """Refuses a parameter that two parts share: each would get one of its own.

    Args:
        module: that is sharded.
        parts: of it, the inner ones first.

    Raises:
        ConfigError: there is one.
    """
    part_of: dict[int, int] = {}
    for number, part in enumerate((*parts, module)):
        for one in part.modules():
            part_of.setdefault(id(one), number)
    found: dict[int, tuple[str, int]] = {}
    for path, owner in module.named_modules():
        for name, one in owner.named_parameters(path, recurse=False):
            first, number = found.setdefault(id(one), (name, part_of[id(owner)]))
            if number != part_of[id(owner)]:
                what = f"{first} and {name} are one parameter, in modules that are gathered one at a time"
                hint = "wrap classes that have both within them, or neither; wrap: [] gathers all at once"
                raise ConfigError([Fault("trainer.fsdp.wrap", what)], hint)
