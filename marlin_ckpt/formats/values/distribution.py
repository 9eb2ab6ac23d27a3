"""How the values of a tensor are distributed, computed block by block."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from marlin_ckpt.formats.statistics import Statistics
from marlin_ckpt.formats.values import arrays
from marlin_ckpt.formats.values.accumulating import Accumulator
from marlin_ckpt.formats.values.checked import Checked
from marlin_ckpt.formats.values.sharded import whole
from marlin_ckpt.formats.values.tensor import TensorInfo
from marlin_ckpt.storage.source import Source

BINS = 16


class Distribution(NamedTuple):
    """How the values of a tensor are distributed, or the magnitudes of complex values.

    Attributes:
        tensor: the tensor.
        statistics: minimum, maximum, norm and counts.
        mean: of the finite values; NaN where there is none.
        std: their standard deviation, divided by n - 1 as torch does.
        histogram: how many finite values are in each of 16 equal intervals from minimum to maximum.
    """

    tensor: TensorInfo
    statistics: Statistics
    mean: float
    std: float
    histogram: tuple[int, ...]


@np.errstate(all="ignore")
def distribution(source: Source, tensor: TensorInfo) -> Distribution:
    """Reads the values of a tensor, twice, and computes in float64.

    Args:
        source: the file.
        tensor: one of the file.

    Raises:
        As `arrays.read_bits` does.
    """
    found, count, mean, squares = Accumulator(), 0, 0.0, 0.0
    for block in arrays.blocks(source, tensor):
        found.add(block)
        finite = _finite(block)
        if finite.size:
            count += finite.size
            mean += (float(finite.mean()) - mean) * finite.size / count
    known = found.statistics()
    if not count:
        return Distribution(tensor, known, math.nan, math.nan, (0,) * BINS)
    low, high = known.minimum, known.maximum
    counts = np.zeros(BINS, "i8")
    width = high / BINS - low / BINS
    for block in arrays.blocks(source, tensor):
        finite = _finite(block)
        squares += float(np.square(finite - mean).sum())
        places = np.zeros(finite.size, "i8")
        if width > 0:
            places = np.clip(finite / width - low / width, 0, BINS - 1).astype("i8")
        counts += np.bincount(places, minlength=BINS)
    std = math.sqrt(squares / (count - 1)) if count > 1 else math.nan
    return Distribution(tensor, known, mean, std, tuple(counts.tolist()))


def checked_distributions(file: Checked, tensors: Sequence[TensorInfo]) -> Iterator[Distribution]:
    """The distributions of some tensors of a file, all of whose checksums are compared first.

    Yields:
        one for each tensor, in their order.

    Raises:
        As `Checked.check` and `arrays.read_bits` do.
    """
    for one in tensors:
        file.check(one)
    for one in tensors:
        with whole(file, one) as (source, there):
            yield distribution(source, there)._replace(tensor=one)


def _finite(block: Any) -> Any:
    values = np.abs(block).astype("f8") if np.iscomplexobj(block) else block.astype("f8")
    return values[np.isfinite(values)]
