"""Accumulates the statistics of a tensor from its values, block by block.

Blocks fit the second-level cache, and rows of them are summed by the processor's vector units in their own
precision; what crosses rows is summed in float64. Only a block whose minimum, maximum or norm says so is
looked at more closely.
"""

import math

import numpy as np

from marlin_ckpt.formats.statistics import Statistics
from marlin_ckpt.formats.values.arrays import Array

BLOCK = 1 << 17  # elements
_SUMMED = (np.dtype("f4"), np.dtype("f8"))  # the others are converted to one of these
_ROW = 4096  # summed in the precision of its elements; BLAS shares longer ones with other threads
# Between these bounds no square of a float32 that counts is too small or too large for one.
_SMALL, _LARGE = 1e-12, 1e15
_FAR_SMALL, _FAR_LARGE = 1e-140, 1e140  # the same for a float64


class Accumulator:
    """Minimum, maximum, norm and counts of the values that it was given."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._norm = 0.0
        self._nans = self._infinities = 0

    def add(self, values: Array) -> None:
        """Takes values into account.

        Args:
            values: a flat array of numbers.
        """
        with np.errstate(all="ignore"):
            for start in range(0, len(values), BLOCK):
                self._add(values[start : start + BLOCK])

    def statistics(self) -> Statistics:
        """The statistics of all values so far."""
        if self._low > self._high:
            return Statistics(0.0, math.nan, math.nan, self._nans, self._infinities)
        return Statistics(self._norm, self._low, self._high, self._nans, self._infinities)

    def _add(self, block: Array) -> None:
        if block.dtype.kind == "c":
            block = np.abs(block)
        if block.dtype not in _SUMMED:
            block = block.astype("f4" if block.dtype == "f2" else "f8")
        low, high = float(np.minimum.reduce(block)), float(np.maximum.reduce(block))
        if not math.isfinite(high - low):  # or so far apart that it does no harm to look
            block = self._finite(block)
            if not len(block):
                return
            low, high = float(np.minimum.reduce(block)), float(np.maximum.reduce(block))
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._norm = math.hypot(self._norm, _norm(block, max(-low, high)))

    def _finite(self, block: Array) -> Array:
        nans = int(np.count_nonzero(np.isnan(block)))
        finite: Array = block[np.isfinite(block)]
        self._nans += nans
        self._infinities += len(block) - len(finite) - nans
        return finite


def _norm(block: Array, largest: float) -> float:
    """The norm of a block of finite values, the largest of which has this magnitude."""
    if not largest:
        return 0.0
    if block.itemsize == 4 and _SMALL < largest < _LARGE:  # noqa: PLR2004 - float32
        return math.sqrt(_squares(block))
    wide = block.astype("f8")
    if _FAR_SMALL < largest < _FAR_LARGE:
        return math.sqrt(_squares(wide))
    # A power of 2, so that the quotients are exact.
    exponent = math.frexp(largest)[1]
    return math.ldexp(math.sqrt(_squares(np.ldexp(wide, -exponent))), exponent)


def _squares(block: Array) -> float:
    """The sum of the squares."""
    whole = len(block) // _ROW * _ROW
    total = 0.0
    if whole:
        rows = block[:whole].reshape(-1, _ROW)
        total = float(np.vecdot(rows, rows).sum(dtype="f8"))
    if whole < len(block):
        rest = block[whole:]
        total += float(np.vecdot(rest, rest))
    return total
