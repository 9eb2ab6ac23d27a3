"""What the module's tensors did from checkpoint to checkpoint, by their statistics."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from marlin_ckpt.operations.report.course import Point
from marlin_ckpt.operations.report.figures import Figures
from marlin_ckpt.operations.report.values import Movement

MOST_COLUMNS = 400  # more are no longer seen; the rest is left out evenly


def movement(points: Sequence[Point], figures: Figures, elements: Mapping[str, int]) -> Movement | None:
    """Puts the statistics of checkpoints side by side.

    Args:
        points: all of them, run by run, in order of save.
        figures: their statistics.
        elements: how many elements the tensors have, as far as that is known.

    Returns:
        what moved; None where no checkpoint has statistics.
    """
    there = [place for place, one in enumerate(points) if one.is_there and one.complete is not False]
    states = [place for place in there if points[place].is_state] or there
    known = [place for place in states if points[place].name in figures.of]
    if not known:
        return None
    columns = _some(known)
    by_column = [figures.of[points[place].name] for place in columns]
    tensors = list(dict.fromkeys(chain.from_iterable(column.names for column in reversed(by_column))))
    runs = [points[place].run_id for place in columns]
    firsts = {at for at, run_id in enumerate(runs) if not at or run_id != runs[at - 1]}
    places = [_places(column.names, tensors) for column in by_column]
    rows = [
        _row(*five, is_one=elements.get(name, 2) <= 1)
        for name, *five in zip(
            tensors,
            _side_by_side([one.norms for one in by_column], places, len(tensors)),
            _side_by_side([one.minima for one in by_column], places, len(tensors)),
            _side_by_side([one.maxima for one in by_column], places, len(tensors)),
            _counts([one.nans for one in by_column], places, tensors),
            _counts([one.infinities for one in by_column], places, tensors),
            strict=True,
        )
    ]
    norms, nans, infinities, dead = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Movement(
        tensors=tuple(tensors),
        columns=tuple(columns),
        change=tuple(_changes(row, firsts) for row in norms),
        norms=norms,
        nans=nans,
        infinities=infinities,
        dead=dead,
        how="read" if figures.has_read else "files",
        missing=len(states) - len(known),
        left_out=len(known) - len(columns),
    )


def _places(names: Sequence[str], tensors: Sequence[str]) -> list[int | None] | None:
    """Where in a column each tensor is, None where it is not; None where all are in the column's order."""
    if names == tensors:
        return None
    at = {name: place for place, name in enumerate(names)}
    return [at.get(name) for name in tensors]


def _side_by_side(
    columns: Sequence[Sequence[float]], places: Sequence[list[int | None] | None], rows: int
) -> Iterable[tuple[float | None, ...]]:
    """The rows of columns, with None where a column does not have the tensor."""
    aligned = [
        column if its is None else [None if place is None else column[place] for place in its]
        for column, its in zip(columns, places, strict=True)
    ]
    return zip(*aligned, strict=True) if rows else ()


def _counts(
    columns: Sequence[Mapping[int, int]],
    places: Sequence[list[int | None] | None],
    tensors: Sequence[str],
) -> list[dict[int, int]]:
    """Of each tensor the counts that are not 0, by the column."""
    found: list[dict[int, int]] = [{} for _ in tensors]
    for column, (counts, its) in enumerate(zip(columns, places, strict=True)):
        rows = {} if its is None else {place: row for row, place in enumerate(its) if place is not None}
        for place, count in counts.items():
            found[rows.get(place, place)][column] = count
    return found


def _row(  # noqa: PLR0913 - each is a column of the record
    norms: tuple[float | None, ...],
    minima: tuple[float | None, ...],
    maxima: tuple[float | None, ...],
    nans: Mapping[int, int],
    infinities: Mapping[int, int],
    *,
    is_one: bool,
) -> tuple[Any, Any, Any, Any]:
    """The norms, counts and signs of death of a tensor; `is_one` where it has one element, and cannot die."""
    width = len(norms)
    all_nans: list[int | None] = [0] * width
    all_infinities: list[int | None] = [0] * width
    all_dead: list[bool | None] = [False] * width if is_one else [*map(operator.eq, minima, maxima)]
    all_norms = [*norms]
    for column, count in infinities.items():
        all_infinities[column], all_norms[column], all_dead[column] = count, math.inf, False
    for column, count in nans.items():
        all_nans[column], all_norms[column], all_dead[column] = count, math.nan, False
    if None in norms:
        for column in (column for column, one in enumerate(norms) if one is None):
            all_nans[column] = all_infinities[column] = all_dead[column] = None
    return tuple(all_norms), tuple(all_nans), tuple(all_infinities), tuple(all_dead)


def _changes(norms: Sequence[float | None], firsts: Iterable[int]) -> tuple[float | None, ...]:
    """The changes of a tensor's norm from column to column."""
    found = [None, *map(_change, norms[:-1], norms[1:])]
    for column in firsts:
        found[column] = None
    return tuple(found)


def _change(before: float | None, now: float | None) -> float | None:
    if before is None or now is None or not before:
        return None
    change = abs(now - before) / before
    return change if math.isfinite(change) else None


def _some(places: Sequence[int]) -> list[int]:
    """Some of many, evenly, with the first and the last."""
    if len(places) <= MOST_COLUMNS:
        return list(places)
    step = (len(places) - 1) / (MOST_COLUMNS - 1)
    return [places[round(number * step)] for number in range(MOST_COLUMNS)]
