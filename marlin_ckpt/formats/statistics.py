"""The statistics of tensors: a record of our own inside a file, which stands before the manifest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

from marlin_ckpt.formats.budget import versioned_json
from marlin_ckpt.formats.manifest import json_ready
from marlin_ckpt.formats.zip.reader import read_own
from marlin_ckpt.storage.source import Source

NAME = ".marlin/statistics.json"
MOST_BYTES = 16 << 20  # that of 100,000 tensors
_FORMAT_VERSION = 1
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Statistics(NamedTuple):
    """Statistics of the values of a tensor, or of the magnitudes of complex values.

    Attributes:
        norm: the L2 norm of the finite values; 0 where there is none.
        minimum: of the finite values; NaN where there is none.
        maximum: of the finite values; NaN where there is none.
        nans: how many values are NaN.
        infinities: how many are infinite.
    """

    norm: float
    minimum: float
    maximum: float
    nans: int = 0
    infinities: int = 0


class Columns(NamedTuple):
    """The statistics of many tensors, column by column, as the record has them.

    Attributes:
        names: of the tensors.
        norms: as in `Statistics`, each of as many as there are names.
        minima: likewise.
        maxima: likewise.
        nans: the counts that are not 0, by the place in `names`.
        infinities: likewise.
    """

    names: Sequence[str]
    norms: Sequence[float]
    minima: Sequence[float]
    maxima: Sequence[float]
    nans: Mapping[int, int]
    infinities: Mapping[int, int]

    @classmethod
    def of(cls, found: Mapping[str, Statistics]) -> Columns:
        """Those of some tensors, by their names."""
        norms, minima, maxima, *counts = zip(*found.values(), strict=True) if found else [()] * 5
        nans, infinities = ({at: one for at, one in enumerate(column) if one} for column in counts)
        return cls([*found], norms, minima, maxima, nans, infinities)

    def by_name(self) -> dict[str, Statistics]:
        """The statistics by the names of the tensors."""
        rows = zip(self.norms, self.minima, self.maxima, repeat(0), repeat(0))
        # As `Statistics._make` does, which takes three times as long.
        found = dict(zip(self.names, map(partial(tuple.__new__, Statistics), rows), strict=True))
        for at in {*self.nans, *self.infinities}:
            counts = {"nans": self.nans.get(at, 0), "infinities": self.infinities.get(at, 0)}
            found[self.names[at]] = found[self.names[at]]._replace(**counts)
        return found

    def within(self, start: str) -> Columns | None:
        """Those of the tensors whose names start so, with the rest of the name; None where there is none."""
        places = [at for at, name in enumerate(self.names) if name.startswith(start)]
        if not places:
            return None
        names = [self.names[at][len(start) :] for at in places]
        norms, minima, maxima = ([of[at] for at in places] for of in (self.norms, self.minima, self.maxima))
        nans, infinities = (
            {new: of[at] for new, at in enumerate(places) if at in of} if of else {}
            for of in (self.nans, self.infinities)
        )
        return Columns(names, norms, minima, maxima, nans, infinities)


class Kept(NamedTuple):
    """A record of statistics that is written as it was read; see `zip.writer.Observer`.

    Attributes:
        data: its bytes; none: nothing is written.
    """

    data: bytes

    def of(self, name: str, data: memoryview) -> None:
        """Nothing is looked at."""

    def record(self) -> tuple[str, bytes] | None:
        """The record, as it was."""
        return (NAME, self.data) if self.data else None


def to_json(found: Mapping[str, Statistics]) -> bytes:
    """The bytes of the record: a column for each statistic, and counts only of the tensors that have some."""
    columns = Columns.of(found)
    values = {
        "format_version": _FORMAT_VERSION,
        "names": columns.names,
        "norm": _column(columns.norms),
        "min": _column(columns.minima),
        "max": _column(columns.maxima),
        "nan": [*columns.nans.items()],
        "inf": [*columns.infinities.items()],
    }
    return json.dumps(values, separators=(",", ":")).encode()


def from_json(data: bytes, path: str = "") -> Columns | None:
    """Reads the bytes of a record.

    Args:
        data: the bytes.
        path: the file, for messages.

    Returns:
        the statistics; None where a newer marlin-ckpt wrote them in another way.

    Raises:
        UnsafeCheckpointError: it would take more memory than any record of its length that marlin-ckpt wrote.
        ValueError: it is no such record.
    """
    try:
        values = versioned_json(data, path, _FORMAT_VERSION)
        if values is None:
            return None
        names = _names(values["names"])
        norms, minima, maxima = (_numbers(values[key], len(names)) for key in ("norm", "min", "max"))
        nans, infinities = (_counts(values[key], len(names)) for key in ("nan", "inf"))
        return Columns(names, norms, minima, maxima, nans, infinities)
    except (KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"the statistics are none: {error!r}") from error


def read(source: Source) -> Columns | None:
    """Reads the statistics in a file, and nothing else of it.

    Args:
        source: the file.

    Returns:
        the statistics; None where the file has none, or none in a way that is known here.

    Raises:
        CorruptCheckpointError: the file is damaged, as far as it was read.
        UnsafeCheckpointError: the record is far larger than any that marlin-ckpt wrote.
        StorageError: it cannot be read.
    """
    return read_own(source, NAME, MOST_BYTES, from_json)


def _names(values: Any) -> list[str]:
    if type(values) is not list or not {*map(type, values)} <= {str}:
        raise TypeError("its names are none")
    return values


def _column(column: Sequence[float]) -> Any:
    # The sum says whether any of them is not finite, without a look at each.
    return column if math.isfinite(sum(map(abs, column))) else json_ready(column)


def _numbers(column: Any, length: int) -> list[float]:
    if type(column) is not list or len(column) != length:
        raise TypeError("a column has another length than the names")
    kinds = set(map(type, column))
    if kinds == {float} or not column:
        return column
    return [one if type(one) is float else _number(one) for one in column]


def _number(value: Any) -> float:
    if type(value) is int:
        return float(value)
    return _NOT_FINITE[value]


def _counts(pairs: Any, length: int) -> dict[int, int]:
    if type(pairs) is not list or len(pairs) > length:
        raise TypeError("counts are none")
    counts = {}
    for at, count in pairs:
        if type(at) is not int or type(count) is not int or not (0 <= at < length and count > 0):
            raise TypeError("a count is none")
        counts[at] = count
    return counts
