"""Puts the files that `list` prints in order."""

import itertools
import math
import os
from collections.abc import Callable, Iterable
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.formats.verdicts import Inspection


def metric(one: Inspection, name: str) -> float:
    """The value of a file's metric; NaN where it has none."""
    return one.metrics.get(name, math.nan)


def run_of(one: Inspection) -> tuple[str, str]:
    """The run that wrote a file: the directory, and the run's id, or "" where that is not known."""
    return os.path.dirname(one.entry.path), one.manifest.run_id if one.manifest else ""


def metric_by_run(found: Iterable[Inspection], name: str) -> list[tuple[str, list[float]]]:
    """The course of a metric in each run.

    Returns:
        the id of each run that has finite values of the metric, and these values in order of their index.
    """
    courses = []
    for (_, run_id), files in itertools.groupby(sorted(found, key=run_of), run_of):
        ordered = sorted(files, key=lambda one: one.entry.index or 0)
        values = [value for one in ordered if math.isfinite(value := metric(one, name))]
        if values:
            courses.append((run_id, values))
    return courses


def arrange(
    found: Iterable[Inspection],
    *,
    by: str = "index",
    best: tuple[str, str] | None = None,
    since: float | None = None,
    by_run: bool = False,
) -> list[Inspection]:
    """Chooses files and puts them in order.

    Args:
        found: the files.
        by: one of `KEYS` (the least index, the oldest, the smallest, the first name first) or a metric, the
            least value first and files without one last.
        best: a metric and `min` or `max`: only files that have a finite value of it, the best first; of equal
            ones the greater index.
        since: only files that were written then or later, in seconds since 1970.
        by_run: directory by directory and run by run.
    """

    def order(one: Inspection) -> tuple[Any, ...]:
        return (run_of(one) if by_run else (), key(one), naming.order(one.entry.path))

    key = _KEYS.get(by) or (lambda one: _nan_last(metric(one, by)))
    chosen = [one for one in found if since is None or one.written_s >= since]
    if best is not None:
        name, mode = best
        sign = 1 if mode == "min" else -1
        chosen = [one for one in chosen if math.isfinite(metric(one, name))]
        key = lambda one: (sign * metric(one, name), -(one.entry.index or 0))  # noqa: E731
    return sorted(chosen, key=order)


def _nan_last(value: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(value) else (False, value)


_KEYS: dict[str, Callable[[Inspection], Any]] = {
    "index": lambda one: (one.entry.name is None, one.entry.index or 0, one.kind),
    "age": lambda one: one.written_s,
    "size": lambda one: one.entry.size_bytes,
    "name": lambda one: os.path.basename(one.entry.path),
}
