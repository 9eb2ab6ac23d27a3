"""Statistics of the values of a tensor, computed block by block."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from marlin_ckpt.formats.values import arrays
from marlin_ckpt.formats.values.checked import Checked
from marlin_ckpt.formats.values.sharded import whole
from marlin_ckpt.formats.values.tensor import TensorInfo
from marlin_ckpt.storage.source import Source

BINS = 16


class Statistics(NamedTuple):
    """Statistics of the values of a tensor, or of the magnitudes of complex values.

    Attributes:
        tensor: the tensor.
        minimum: of the finite values; NaN, as the next three, where no value is finite.
        maximum: of the finite values.
        mean: of the finite values.
        std: their standard deviation, divided by n - 1 as torch does.
        nans: how many values are NaN.
        infinities: how many are infinite.
        histogram: how many finite values are in each of 16 equal intervals from minimum to maximum.
    """

    tensor: TensorInfo
    minimum: float
    maximum: float
    mean: float
    std: float
    nans: int
    infinities: int
    histogram: tuple[int, ...]


@np.errstate(all="ignore")
def statistics(source: Source, tensor: TensorInfo) -> Statistics:
    """Reads the values of a tensor, twice, and computes in float64.

    Args:
        source: the file.
        tensor: one of the file.

    Raises:
        As `arrays.read_bits` does.
    """
    count = nans = infinities = 0
    low, high, mean, squares = math.inf, -math.inf, 0.0, 0.0
    for block in arrays.blocks(source, tensor):
        values = _real(block)
        missing = int(np.isnan(values).sum())
        finite = values[np.isfinite(values)]
        nans += missing
        infinities += values.size - finite.size - missing
        if not finite.size:
            continue
        low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        count += finite.size
        mean += (float(finite.mean()) - mean) * finite.size / count
    if not count:
        return Statistics(tensor, math.nan, math.nan, math.nan, math.nan, nans, infinities, (0,) * BINS)
    counts = np.zeros(BINS, "i8")
    width = high / BINS - low / BINS
    for block in arrays.blocks(source, tensor):
        values = _real(block)
        finite = values[np.isfinite(values)]
        squares += float(np.square(finite - mean).sum())
        places = np.zeros(finite.size, "i8")
        if width > 0:
            places = np.clip(finite / width - low / width, 0, BINS - 1).astype("i8")
        counts += np.bincount(places, minlength=BINS)
    std = math.sqrt(squares / (count - 1)) if count > 1 else math.nan
    return Statistics(tensor, low, high, mean, std, nans, infinities, tuple(counts.tolist()))


def checked_statistics(file: Checked, tensors: Sequence[TensorInfo]) -> list[Statistics]:
    """The statistics of some tensors of a file, all of whose checksums are compared first.

    Raises:
        As `Checked.check` and `arrays.read_bits` do.
    """
    for one in tensors:
        file.check(one)
    found = []
    for one in tensors:
        with whole(file, one) as (source, there):
            found.append(statistics(source, there)._replace(tensor=one))
    return found


def _real(block: Any) -> Any:
    return np.abs(block).astype("f8") if np.iscomplexobj(block) else block.astype("f8")
