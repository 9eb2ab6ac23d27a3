"""What of tensors is pickled beside their data."""

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import torch
from torch.storage import UntypedStorage

from marlin_ckpt.formats.torch.memory import identity
from marlin_ckpt.formats.torch.pickler import HAS_NAMES, STORAGE_TYPES

_BESIDE_GUARDS = 3  # columns of `Facts`, the first ones, of which guards know nothing
_DEVICES = frozenset({"cpu", "cuda"})
_base: Any = torch.Tensor
_attributes, _device, _dtype = attrgetter("__dict__"), attrgetter("device"), attrgetter("dtype")
_requires_grad, _shape = attrgetter("requires_grad"), attrgetter("shape")


class Facts(NamedTuple):
    """All that decides how tensors are pickled, in columns; it keeps no tensor alive.

    To compare columns takes a tenth of the time that it takes to compare as many objects.

    Attributes:
        shared: for each the number of the first that has the same storage.
        sizes: the lengths of the storages in bytes.
        offsets: of each in its storage.
        kinds: their types.
        dtypes: of each.
        devices: of each.
        shapes: of each.
        strides: of each.
        gradients: whether each requires one.
        negative: whether each is a view of what is stored with the other sign.
    """

    shared: list[int]
    sizes: list[int]
    offsets: list[int]
    kinds: list[type]
    dtypes: list[torch.dtype]
    devices: list[torch.device]
    shapes: list[torch.Size]
    strides: list[tuple[int, ...]]
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


class Known:
    """The facts of tensors, with which others are compared.

    Attributes:
        facts: of the tensors.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], storages: Sequence[UntypedStorage]) -> None:
        """Reads tensors; raises RuntimeError where one has no shape."""
        self.facts = facts_of(tensors, storages)
        self._guards: _Guards | None = None

    def are_of(self, tensors: Sequence[torch.Tensor], storages: Sequence[UntypedStorage]) -> bool:
        """Whether other tensors, of as many, have all the same facts; raises as it is made."""
        columns = _columns(tensors, storages)
        if self._guards is not None and self._guards.check(*tensors):
            return all(map(operator.eq, self.facts[:_BESIDE_GUARDS], columns))
        # Column by column, each of which goes before the next one comes: that much memory stays in the
        # processor's cache. Of columns of tuples only one tuple is there at a time: for many the cyclic
        # collector would run.
        if not all(map(_are_equal, self.facts, columns)):
            return False
        if (
            self._guards is None
        ):  # to make them takes as long as many a comparison, which most facts have none of
            self._guards = _guards_of(self.facts, tensors)
        return True


class _Guards(Protocol):
    """What compares all facts but the first columns in one pass, at a tenth of the price.

    It is what torch guards its compiled functions by: types, dispatch keys (the kind of device, and the other
    sign), dtypes, numbers of devices, shapes, strides, and whether a gradient is required.
    """

    def check(self, *tensors: torch.Tensor) -> bool:
        """Whether tensors are alike, and each another one; not so in another mode of torch, as inference."""


class _NoGuards:
    """Stands for guards where torch, of which they are private, has none."""

    def check(self, *_: torch.Tensor) -> bool:
        """Whether one may do without a comparison of columns."""
        return False


def _guards_of(facts: Facts, tensors: Sequence[torch.Tensor]) -> _Guards:
    sizes, strides = list(map(list, facts.shapes)), list(map(list, facts.strides))
    try:
        make: Any = torch._C._dynamo.guards.TensorGuards  # noqa: SLF001 - torch offers nothing else
        guards: _Guards = make(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    except (AttributeError, TypeError, RuntimeError, SystemError):
        return _NoGuards()
    return guards


def _are_equal(known: Any, column: Iterable[Any]) -> bool:
    return known == column if isinstance(column, list) else all(map(operator.eq, known, column))


def _columns(tensors: Sequence[torch.Tensor], storages: Sequence[UntypedStorage]) -> Iterator[Iterable[Any]]:
    firsts: dict[int, int] = {}
    yield list(map(firsts.setdefault, map(identity, storages), itertools.count()))
    yield list(map(UntypedStorage.nbytes, storages))
    yield list(map(_base.storage_offset, tensors))
    yield list(map(type, tensors))
    yield list(map(_dtype, tensors))
    yield list(map(_device, tensors))
    yield map(_shape, tensors)
    yield map(_base.stride, tensors)
    yield list(map(_requires_grad, tensors))
    yield list(map(_base.is_neg, tensors))
