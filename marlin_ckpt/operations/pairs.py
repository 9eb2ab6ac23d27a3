"""Compares the values of tensors of two checkpoints with each other, in blocks, several at a time."""

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from isal import isal_zlib

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.content.contents import TensorInfo
from marlin_ckpt.formats.values import distance, dtypes
from marlin_ckpt.formats.values.arrays import Array, widened
from marlin_ckpt.formats.values.checked import Checked, is_in_order, is_whole
from marlin_ckpt.formats.values.distance import Distance, Ruler
from marlin_ckpt.storage.threads import in_order

_PIECE_BYTES = 512 << 10  # of each file; with all intermediate values they fit the processor's caches
_RANGE_BYTES = 16 << 20  # of a task of a thread

_Range = tuple[
    TensorInfo, TensorInfo, int, int
]  # of two tensors: where in them it starts, and how long it is


@dataclass(slots=True)
class _Part:
    """The findings of a thread on one range of two tensors.

    Attributes:
        size: of the range in bytes.
        crc32s: of its bytes in either file.
        distance: between the pieces that differ.
        equal: place and length of each piece that does not differ.
    """

    size: int
    crc32s: tuple[int, int] = (0, 0)
    distance: Distance | None = None
    equal: list[tuple[int, int]] = field(default_factory=list)


class Pairs:
    """Pairs of tensors of two files.

    Args:
        a: the first file.
        b: the second.
    """

    def __init__(self, a: Checked, b: Checked) -> None:
        self._a = a
        self._b = b

    def measure(self, pairs: Iterable[tuple[TensorInfo, TensorInfo]]) -> Iterator[Distance | None]:
        """Compares pairs of tensors of one shape and dtype.

        Yields:
            the distance of each pair, in their order, or None where every bit is the same.

        Raises:
            CorruptCheckpointError: a checksum does not hold, or values are outside of a storage.
            UnknownFormatError: a dtype is not known here.
            StorageError: a file cannot be read.
        """
        for in_ranges, group in itertools.groupby(pairs, lambda pair: all(map(is_in_order, pair))):
            if in_ranges:
                yield from self._measure_in_ranges(group)
            else:
                yield from itertools.starmap(self._measure_whole, group)

    def _measure_whole(self, a: TensorInfo, b: TensorInfo) -> Distance | None:
        one, other = self._a.bits(a), self._b.bits(b)
        differs = distance.differences(_bytes(one), _bytes(other), a.dtype)
        return _measure(Ruler(), _bytes(one), _bytes(other), a.dtype, differs) if differs.any() else None

    def _measure_in_ranges(self, pairs: Iterable[tuple[TensorInfo, TensorInfo]]) -> Iterator[Distance | None]:
        parts: list[_Part] = []
        for last, part in in_order(self._compare, self._ranges(pairs)):
            parts.append(part)
            if last is not None:
                yield self._finish(*last, parts)
                parts = []

    def _ranges(self, pairs: Iterable[tuple[TensorInfo, TensorInfo]]) -> Iterator[_Range]:
        for a, b in pairs:
            for file, tensor in ((self._a, a), (self._b, b)):
                if not is_whole(tensor):
                    file.check(tensor)  # its checksum covers more than the ranges below
            for start in range(0, max(1, a.size_bytes), _RANGE_BYTES):
                yield a, b, start, min(_RANGE_BYTES, a.size_bytes - start)

    def _compare(self, taken: _Range) -> tuple[tuple[TensorInfo, TensorInfo] | None, _Part]:
        """Compares a range; returns the pair too where the range is its last."""
        a, b, start, size = taken
        part, ruler = _Part(size), Ruler()
        scratch = memoryview(bytearray(_PIECE_BYTES)), memoryview(bytearray(_PIECE_BYTES))
        crc32, other_crc32 = part.crc32s
        for at in range(start, start + size, _PIECE_BYTES):
            length = min(_PIECE_BYTES, start + size - at)
            one = _read(self._a, a, at, scratch[0][:length])
            other = _read(self._b, b, at, scratch[1][:length])
            crc32, other_crc32 = isal_zlib.crc32(one, crc32), isal_zlib.crc32(other, other_crc32)
            differs = distance.differences(one, other, a.dtype)
            if differs.any():
                part.distance = (part.distance or Distance()) + _measure(ruler, one, other, a.dtype, differs)
            else:
                part.equal.append((at, length))
        part.crc32s = crc32, other_crc32
        return ((a, b) if start + size == a.size_bytes else None), part

    def _finish(self, a: TensorInfo, b: TensorInfo, parts: list[_Part]) -> Distance | None:
        for number, (file, tensor) in enumerate(((self._a, a), (self._b, b))):
            if is_whole(tensor):
                crc32 = 0
                for part in parts:
                    crc32 = isal_zlib.crc32_combine(crc32, part.crc32s[number], part.size)
                file.confirm(tensor, crc32)
        distances = [part.distance for part in parts if part.distance is not None]
        if not distances:
            return None
        return functools.reduce(operator.add, [*distances, *self._equal(a, parts)])

    def _equal(self, a: TensorInfo, parts: list[_Part]) -> Iterator[Distance]:
        """What equal pieces add to the norms; they are read again, since only tensors that differ need it."""
        scratch, ruler = memoryview(bytearray(_PIECE_BYTES)), Ruler()
        for part in parts:
            for at, size in part.equal:
                piece = _read(self._a, a, at, scratch[:size])
                same = distance.differences(piece, piece, a.dtype)
                yield _measure(ruler, piece, piece, a.dtype, same)


def _read(file: Checked, tensor: TensorInfo, at: int, place: memoryview) -> memoryview:
    start = tensor.start + tensor.offset * tensor.item_bytes + at
    source = file.source_of(tensor)
    if source.read_into(start, place) < len(place):
        raise CorruptCheckpointError("truncated while it was read", source.path)
    return place


def _bytes(elements: Array) -> memoryview:
    return elements.view(np.uint8).data


def _measure(ruler: Ruler, a: memoryview, b: memoryview, dtype: str, differs: Array) -> Distance:
    if not dtypes.dtype(dtype).item_bytes:
        return distance.uninterpreted(differs)
    one, other = (widened(np.frombuffer(part, dtypes.dtype(dtype).numpy), dtype) for part in (a, b))
    if one.dtype != other.dtype:  # of times, where one side alone has some that are none
        one, other = one.astype(np.float64), other.astype(np.float64)
    return ruler.measure(one, other, differs)
