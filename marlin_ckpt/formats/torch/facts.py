"""What of tensors is pickled beside their data."""

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch.storage import UntypedStorage

from marlin_ckpt.formats.torch.memory import identity
from marlin_ckpt.formats.torch.pickler import HAS_NAMES, STORAGE_TYPES

_DEVICES = frozenset({"cpu", "cuda"})
_base: Any = torch.Tensor
_attributes, _device, _dtype = attrgetter("__dict__"), attrgetter("device"), attrgetter("dtype")
_requires_grad, _shape = attrgetter("requires_grad"), attrgetter("shape")


class Facts(NamedTuple):
    """All that decides how tensors are pickled, in columns; it keeps no tensor alive.

    To compare columns takes a tenth of the time that it takes to compare as many objects.

    Attributes:
        kinds: their types.
        shared: for each the number of the first that has the same storage.
        sizes: the lengths of the storages in bytes.
        dtypes: of each.
        devices: of each.
        shapes: of each.
        strides: of each.
        offsets: of each in its storage.
        gradients: whether each requires one.
        negative: whether each is a view of what is stored with the other sign.
    """

    kinds: list[type]
    shared: list[int]
    sizes: list[int]
    dtypes: list[torch.dtype]
    devices: list[torch.device]
    shapes: list[torch.Size]
    strides: list[tuple[int, ...]]
    offsets: list[int]
    gradients: list[bool]
    negative: list[bool]

    @property
    def are_all(self) -> bool:
        """Whether these are all.

        A complex tensor may be conjugated, too, a quantized one has a scale, and one that requires a gradient
        may have hooks, of which torch warns; a parameter is pickled without its own.
        """
        if any(one is torch.Tensor for one in itertools.compress(self.kinds, self.gradients)):
            return False
        are_plain = all(one in STORAGE_TYPES and not one.is_complex for one in set(self.dtypes))
        return are_plain and {one.type for one in self.devices} <= _DEVICES


def storages_of(tensors: Sequence[torch.Tensor]) -> list[UntypedStorage]:
    """The storages of tensors.

    Raises:
        RuntimeError: one has no memory of its own.
        ValueError: one has attributes, or names of its dimensions, of which the facts say nothing.
    """
    if any(map(_attributes, tensors)) or (HAS_NAMES and any(map(_base.has_names, tensors))):
        raise ValueError("a tensor has more than is looked at here")
    return list(map(_base.untyped_storage, tensors))


def facts_of(tensors: Sequence[torch.Tensor], storages: Sequence[UntypedStorage]) -> Facts:
    """Reads tensors; raises RuntimeError where one has no shape."""
    return Facts(*map(list, _columns(tensors, storages)))


def have_facts(facts: Facts, tensors: Sequence[torch.Tensor], storages: Sequence[UntypedStorage]) -> bool:
    """Whether tensors have all the same facts; raises as `facts_of`.

    Column by column, each of which goes before the next one comes: that much memory stays in the processor's
    cache. Of columns of tuples only one tuple is there at a time: for many the cyclic collector would run.
    """
    return all(map(_are_equal, facts, _columns(tensors, storages)))


def _are_equal(known: Any, column: Iterable[Any]) -> bool:
    return known == column if isinstance(column, list) else all(map(operator.eq, known, column))


def _columns(tensors: Sequence[torch.Tensor], storages: Sequence[UntypedStorage]) -> Iterator[Iterable[Any]]:
    firsts: dict[int, int] = {}
    yield list(map(type, tensors))
    yield list(map(firsts.setdefault, map(identity, storages), itertools.count()))
    yield list(map(UntypedStorage.nbytes, storages))
    yield list(map(_dtype, tensors))
    yield list(map(_device, tensors))
    yield map(_shape, tensors)
    yield map(_base.stride, tensors)
    yield list(map(_base.storage_offset, tensors))
    yield list(map(_requires_grad, tensors))
    yield list(map(_base.is_neg, tensors))
