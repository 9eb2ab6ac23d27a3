"""Tensors of a file, and the statistics of those whose values were read, as `show` prints them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marlin_ckpt.cli import table
from marlin_ckpt.cli.table import Column, figure
from marlin_ckpt.cli.text import bars, cut, shape, size
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats.values.tensor import TensorInfo

if TYPE_CHECKING:  # needs NumPy, which `show` without --stats does not
    from marlin_ckpt.formats.values.distribution import Distribution


def show(listed: Sequence[TensorInfo]) -> None:
    """Prints a line for each tensor."""
    rows = [
        [cut(one.name), shape(one.shape), escape(one.dtype), f"{one.numel:,}", size(one.size_bytes)]
        for one in listed
    ]
    shapes, dtypes = Column("shape", least=10, cut="end"), Column("dtype", rank=6)
    table.show(rows, [_NAME, shapes, dtypes, figure("elements", 7), figure("size", 5)])


def show_statistics(found: Sequence[Distribution]) -> None:
    """Prints a line of figures for each tensor that was read."""
    rows = []
    for one in found:
        known = one.statistics
        numbers = (known.minimum, known.maximum, one.mean, one.std, known.norm)
        figures = [_figure(number) for number in numbers]
        counts = [str(known.nans), str(known.infinities), bars(one.histogram)]
        rows.append([cut(one.tensor.name), shape(one.tensor.shape), *figures, *counts])
    table.show(rows, _STATISTICS)


_NAME = Column("name", least=table.TENSOR_LETTERS)
_STATISTICS = (
    _NAME,
    Column("shape", rank=9),
    figure("min", 3),
    figure("max", 3),
    figure("mean", 4),
    figure("std", 5),
    figure("norm", 7),
    figure("NaN"),
    figure("Inf"),
    Column("histogram", rank=8),
)


def _figure(number: float) -> str:
    return "-" if number != number else f"{number:.4g}"  # noqa: PLR0124 - NaN alone differs from itself


def document(listed: Sequence[TensorInfo], found: Sequence[Distribution] | None) -> dict[str, Any]:
    """The keys of `show --json` that are about tensors.

    Args:
        listed: the tensors.
        found: the statistics of those that were read; None where none was asked for.
    """
    keys = ("name", "dtype", "shape", "size_bytes", "storage", "storage_bytes")
    tensors = {"tensors": [facts(one, *keys, elements="numel") for one in listed]}
    if found is None:
        return tensors
    others = {"min": "minimum", "max": "maximum", "nan": "nans", "inf": "infinities"}
    stats = [
        facts(one.tensor, "name")
        | facts(one, "mean", "std", "histogram")
        | facts(one.statistics, "norm", **others)
        for one in found
    ]
    return {**tensors, "stats": stats}
