"""The distance between two tensors, in sums that are computed block by block and added."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from marlin_ckpt.formats.values import dtypes
from marlin_ckpt.formats.values.arrays import Array, halves

_BLOCK = 1 << 16  # elements; all intermediate values of a block fit the processor's caches


@dataclass(frozen=True, slots=True)
class Distance:
    """Sums over the elements of two tensors a and b of one shape and dtype, in float64.

    An element that is infinite or NaN in a or b counts in `differing` and `not_finite`, if its bits differ,
    and nowhere else: a single NaN would make all sums NaN.

    Attributes:
        differing: how many elements differ in their bits, as 0.0 and -0.0 do, and equal NaNs do not.
        not_finite: how many of the differing elements are infinite or NaN in a or b.
        squares: the sum of |a|^2.
        other_squares: the sum of |b|^2.
        difference_squares: the sum of |a - b|^2.
        product: the sum of a * b; the real part of a * conj(b) where they are complex.
        maximum: the greatest |a - b|.
    """

    differing: int = 0
    not_finite: int = 0
    squares: float = 0.0
    other_squares: float = 0.0
    difference_squares: float = 0.0
    product: float = 0.0
    maximum: float = 0.0

    def __add__(self, other: Self) -> Distance:
        sums = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        return Distance(**{**sums, "maximum": max(self.maximum, other.maximum)})

    @property
    def relative(self) -> float:
        """The norm of the difference divided by the norm of a; infinite where that is 0, or on overflow."""
        if self.difference_squares == 0:
            return 0.0
        if not self.squares or not math.isfinite(self.difference_squares):
            return math.inf
        return math.sqrt(self.difference_squares / self.squares)

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between a and b; None where one of them is all zeros."""
        norms = math.sqrt(self.squares) * math.sqrt(self.other_squares)
        if not norms or not math.isfinite(norms):
            return None
        return max(-1.0, min(1.0, self.product / norms))


class Ruler:
    """Measures the distance between tensors, or parts of them, in buffers that it reuses.

    To allocate these for each block takes five times as long as to compute in them.
    """

    def __init__(self) -> None:
        self._wide = np.empty((3, _BLOCK))
        self._flags = np.empty(_BLOCK, np.bool_)

    def measure(self, a: Array, b: Array, differs: Array) -> Distance:
        """Measures two tensors.

        Args:
            a: flat, of any dtype of numpy's.
            b: as many values of the same dtype.
            differs: whether the bits of each element differ; widened values no longer show that.
        """
        kinds = {"f": self._measure_reals, "c": _measure_any}
        measure = kinds.get(a.dtype.kind, _measure_integers)
        total = Distance()
        with np.errstate(all="ignore"):
            for start in range(0, len(a), _BLOCK):
                part = slice(start, start + _BLOCK)
                total += measure(a[part], b[part], differs[part])
        return total

    def _measure_reals(self, a: Array, b: Array, differs: Array) -> Distance:
        count = len(a)
        one, other, apart = self._wide[:, :count]
        np.copyto(one, a)
        np.copyto(other, b)
        np.subtract(one, other, out=apart)
        if not np.isfinite(apart, out=self._flags[:count]).all():
            return _measure_any(one, other, differs)
        maximum = float(np.abs(apart, out=apart).max())
        return _sums(one, other, apart, Distance(int(np.count_nonzero(differs)), maximum=maximum))


def _measure_any(a: Array, b: Array, differs: Array) -> Distance:
    """Measures complex numbers too, and leaves out elements that are infinite or NaN."""
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    a, b = a.astype(wide), b.astype(wide)
    apart = a - b
    is_finite = np.isfinite(apart)
    not_finite = int(np.count_nonzero(differs & ~is_finite))
    a, b, apart = a[is_finite], b[is_finite], apart[is_finite]
    maximum = float(np.abs(apart).max(initial=0.0))
    return _sums(a, b, apart, Distance(int(np.count_nonzero(differs)), not_finite, maximum=maximum))


def _measure_integers(a: Array, b: Array, differs: Array) -> Distance:
    """Measures integers, subtracted as integers: in float64 neighbours beyond 2^53 would be equal."""
    if a.dtype.kind == "b":
        a, b = a.view(np.uint8), b.view(np.uint8)
    apart = np.maximum(a, b).astype(np.uint64) - np.minimum(a, b).astype(np.uint64)
    wide = [part.astype(np.float64) for part in (a, b, apart)]
    counted = Distance(int(np.count_nonzero(differs)), maximum=float(apart.max(initial=0)))
    return _sums(wide[0], wide[1], wide[2], counted)


def _sums(a: Array, b: Array, apart: Array, counted: Distance) -> Distance:
    if a.dtype.kind == "c":  # as twice as many real numbers, which have the same sums
        a, b, apart = a.view(np.float64), b.view(np.float64), apart.view(np.float64)

    def dot(x: Array, y: Array) -> float:
        # Not BLAS: its threads wait for each other on busy cores, and add in an order that varies.
        return float(np.einsum("i,i->", x, y))

    return counted + Distance(0, 0, dot(a, a), dot(b, b), dot(apart, apart), dot(a, b))


def differences(a: memoryview, b: memoryview, name: str) -> Array:
    """Whether the bits of each element differ; where the dtype is not known here, of each byte.

    Args:
        a: the elements' bytes.
        b: as many.
        name: torch's name of their dtype.
    """
    item_bytes = dtypes.dtype(name).item_bytes or 1
    word = f"u{min(item_bytes, 8)}"
    one, other = np.frombuffer(a, word), np.frombuffer(b, word)
    if name == dtypes.FLOAT4:
        one, other = halves(one), halves(other)
    differs: Array = np.not_equal(one, other)
    words = item_bytes // one.itemsize
    if words > 1:
        differs = np.logical_or.reduce(differs.reshape(-1, words), axis=1)
    return differs


def uninterpreted(differs: Array) -> Distance:
    """The distance between elements whose values are not known: how many differ, infinite if any."""
    count = int(np.count_nonzero(differs))
    size = math.inf if count else 0.0
    return Distance(count, difference_squares=size, maximum=size)
