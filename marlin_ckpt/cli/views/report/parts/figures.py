"""Numbers and times as the page writes them, all of one kind alike."""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Iterable

from marlin_ckpt.cli import text
from marlin_ckpt.operations.report.course import Point

_MINUS = "\N{MINUS SIGN}"
_THOUSANDS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
UNKNOWN = "\N{EN DASH}"


def number(value: float | None, digits: int = 5) -> str:
    """A number with so many digits: 0.63412, 1.5e-6, NaN, ∞."""
    if value is None:
        return UNKNOWN
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    return _written(f"{value:.{digits}g}")


def _written(figures: str) -> str:
    """What Python makes of a number, without the zeros of its exponent."""
    return re.sub(r"e([-+])0*(?=[0-9])", lambda found: "e-" if found[1] == "-" else "e", figures).replace(
        "-", _MINUS
    )


def tick(value: float) -> str:
    """A number at an axis, in few characters: 12k, 0.05, 1e-5."""
    for unit, letter in _THOUSANDS:
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}".replace("-", _MINUS)
    if value and abs(value) < 1e-3:  # noqa: PLR2004 - below it zeros would fill the margin
        return _written(f"{value:.0e}")
    return f"{value:.4g}".replace("-", _MINUS)


def percent(fraction: float) -> str:
    """A fraction as a percentage of two digits: 0.12 %, 340 %."""
    if fraction <= 0:
        return "0 %"
    if fraction < 1e-6:  # noqa: PLR2004 - 0.0001 %
        return _written(f"{fraction * 100:.0e} %")
    return f"{float(f'{fraction * 100:.2g}'):,.10g} %"


def count(value: int | None) -> str:
    """A count with commas between its thousands: 12,345."""
    return UNKNOWN if value is None else f"{value:,}".replace("-", _MINUS)


def held(points: Iterable[Point]) -> list[str]:
    """What is there of some points, as `list` counts it: 5 checkpoints, then 1 model file."""
    there = Counter("checkpoint" if one.is_state else f"{one.kind} file" for one in points if one.is_there)
    return [text.count(number, noun) for noun, number in sorted(there.items())] or ["0 checkpoints"]


def where(point: Point) -> str:
    """Where in its run a checkpoint is: its step, else its index, else its name."""
    if point.step is not None:
        return f"step {point.step:,}"
    return point.name if point.index is None else f"index {point.index}"


def seconds_of(moment: str | None) -> float | None:
    """A time of ISO 8601 in seconds since 1970; None if it is none."""
    try:
        when = datetime.datetime.fromisoformat(moment or "")
        return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def at(moment: str | None) -> str:
    """A time in UTC to the second: 2026-11-26 15:34:03."""
    when = seconds_of(moment)
    if when is None:
        return moment or UNKNOWN
    return f"{datetime.datetime.fromtimestamp(when, datetime.UTC):%Y-%m-%d %H:%M:%S}"
