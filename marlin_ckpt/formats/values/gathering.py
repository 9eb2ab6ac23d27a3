"""Gathers the statistics of tensors while the bytes of their storages are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from marlin_ckpt.formats import statistics
from marlin_ckpt.formats.values import arrays
from marlin_ckpt.formats.values.accumulating import BLOCK, Accumulator
from marlin_ckpt.formats.values.dtypes import dtype
from marlin_ckpt.formats.values.tensor import TensorInfo

# The views of a storage may be larger than it by so much and so many times; the rest is left out.
_FREE_BYTES = 32 << 20
_MOST_TIMES = 8
_NO_NUMBERS = ("bool", "bits", "qint", "quint")  # how the names of these dtypes begin


@dataclass(slots=True)
class Stretch:
    """A stretch of a storage whose elements are those of a tensor, in any order.

    Attributes:
        start: where in the storage it begins, in bytes.
        end: where it ends.
        dtype: of the elements.
        found: of those that were written so far.
        rest: bytes of an element that is not yet whole.
    """

    start: int
    end: int
    dtype: str
    found: Accumulator = field(default_factory=Accumulator)
    rest: bytes = b""

    def add(self, data: memoryview) -> None:
        """Takes the next bytes."""
        item_bytes = dtype(self.dtype).item_bytes
        if self.rest:
            data = memoryview(self.rest + data)
        whole = len(data) // item_bytes * item_bytes
        self.rest = bytes(data[whole:])
        step = BLOCK * item_bytes
        for at in range(0, whole, step):
            bits = np.frombuffer(data[at : min(at + step, whole)], dtype(self.dtype).numpy)
            self.found.add(arrays.widened(bits, self.dtype))


class _Storage:
    """The tensors of a storage, which is being written."""

    def __init__(self) -> None:
        self.stretches: dict[tuple[int, int, str], Stretch] = {}
        self.scattered: list[tuple[TensorInfo, Accumulator]] = []
        self.bytes_left = _FREE_BYTES
        self._data = memoryview(b"")
        self._waiting: list[Stretch] = []
        self._under_way: list[Stretch] = []
        self._at = 0

    def begin(self, data: memoryview) -> None:
        """Takes what will be written."""
        self._data = data
        self._waiting = sorted(self.stretches.values(), key=lambda one: one.start, reverse=True)

    def add(self, stored: memoryview) -> None:
        """Takes the next bytes, as they are stored."""
        start, end = self._at, self._at + len(stored)
        while self._waiting and self._waiting[-1].start < end:
            self._under_way.append(self._waiting.pop())
        for one in self._under_way:
            one.add(stored[max(one.start - start, 0) : one.end - start])
        self._under_way = [one for one in self._under_way if one.end > end]
        self._at = end
        if end == len(self._data):
            # Few states have any. Their elements are here and there in the storage, which is all there only
            # now, and not in one place in the file's order: they are read from where it was written from.
            for tensor, found in self.scattered:
                for block in arrays.blocks_of(self._data, tensor):
                    found.add(block)
            self.scattered = []


class Gathering:
    """Statistics of the tensors of a state, of the bytes that are written of it.

    Tensors that together view their storage many times over are left out in part: a save must not take far
    longer for them.

    Args:
        tensors: those of the state. Each has its storage to itself, from 0 on, in the processor's byte order.
    """

    def __init__(self, tensors: Iterable[TensorInfo]) -> None:
        self._found: dict[str, Accumulator] = {}
        self._storages: dict[str, _Storage] = {}
        for one in filter(_is_counted, tensors):
            own = self._storages.setdefault(one.storage, _Storage())
            place = one.offset * one.item_bytes, (one.last + 1) * one.item_bytes, one.dtype
            if one.is_dense and place in own.stretches:
                self._found[one.name] = own.stretches[place].found
                continue
            own.bytes_left -= one.size_bytes
            if own.bytes_left + _MOST_TIMES * one.storage_bytes < 0:
                continue
            self._found[one.name] = found = Accumulator()
            if one.is_dense:
                own.stretches[place] = Stretch(*place, found)
            else:
                own.scattered.append((one, found))

    def of(self, name: str, data: memoryview) -> Callable[[memoryview], None] | None:
        """What is to be told of the bytes of a record, in their order, as they are stored.

        Args:
            name: of the record, `data/0`.
            data: what is written to it.

        Returns:
            None where nothing has to be told.
        """
        folder, _, key = name.partition("/")
        own = self._storages.get(key) if folder == "data" else None
        if own is None:
            return None
        own.begin(data)
        return own.add

    def record(self) -> tuple[str, bytes] | None:
        """The record of the statistics, once all is written; None where it is too long to be read."""
        data = statistics.to_json({name: one.statistics() for name, one in self._found.items()})
        return (statistics.NAME, data) if len(data) <= statistics.MOST_BYTES else None


def has_numbers(name: str) -> bool:
    """Whether there are statistics of tensors of a dtype."""
    return dtype(name).item_bytes > 0 and not name.startswith(_NO_NUMBERS)


def _is_counted(tensor: TensorInfo) -> bool:
    return has_numbers(tensor.dtype) and tensor.is_inside and not tensor.is_array
