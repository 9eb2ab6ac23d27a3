"""What the module's tensors did from checkpoint to checkpoint, by their statistics."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, cast

from marlin_ckpt.formats.statistics import Statistics
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
    tensors = list(dict.fromkeys(name for column in reversed(by_column) for name in column))
    runs = [points[place].run_id for place in columns]
    firsts = {at for at, run_id in enumerate(runs) if not at or run_id != runs[at - 1]}

    rows = [
        _row([column.get(name) for column in by_column], is_one=elements.get(name, 2) <= 1)
        for name in tensors
    ]
    norms, nans, infinities, dead = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Movement(
        tensors=tuple(tensors),
        columns=tuple(columns),
        change=tuple(
            tuple(None if at in firsts else _change(row[at - 1], now) for at, now in enumerate(row))
            for row in norms
        ),
        norms=norms,
        nans=nans,
        infinities=infinities,
        dead=dead,
        how="read" if figures.has_read else "files",
        missing=len(states) - len(known),
        left_out=len(known) - len(columns),
    )


def _row(of: Sequence[Statistics | None], *, is_one: bool) -> tuple[Any, Any, Any, Any]:
    """The norms, counts and signs of death of a tensor; `is_one` where it has one element, and cannot die."""
    if None not in of:  # as of most tensors; column by column this takes a third of the time
        norms, lows, highs, nans, infinities = zip(*cast("Sequence[Statistics]", of), strict=True)
        if not any(nans) and not any(infinities):
            dead = (False,) * len(of) if is_one else tuple(map(operator.eq, lows, highs))
            return norms, nans, infinities, dead
    return (
        tuple(None if one is None else norm(one) for one in of),
        tuple(one and one.nans for one in of),
        tuple(one and one.infinities for one in of),
        tuple(one and not is_one and is_dead(one) for one in of),
    )


def norm(one: Statistics) -> float:
    """The norm of all values: NaN or infinite where one of them is."""
    return math.nan if one.nans else math.inf if one.infinities else one.norm


def is_dead(one: Statistics) -> bool:
    """Whether all values of a tensor of several are equal."""
    return not one.nans and not one.infinities and one.minimum == one.maximum


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
