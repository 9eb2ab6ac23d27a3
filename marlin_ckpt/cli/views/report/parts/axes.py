"""Scales of charts: where a value is, from 0 to 1, and which values an axis names."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from marlin_ckpt.cli.views.report.parts.figures import tick

_NICE = (1, 2, 2.5, 5, 10)
_INTERVALS = (
    *(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800),
    *(3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600),
)
_DAY = 86400
_CLOSEST = 0.17  # of the width, between two names on an axis of time: what 15:34:20 takes on a phone
_BREAK_OF_ALL, _BREAK_OF_USUAL = 0.12, 8  # a gap is broken where it is longer than both of these
_BREAK_WIDTH = 0.04


class Scale(Protocol):
    """What places values on an axis."""

    def place(self, value: float) -> float:
        """Where a value is: 0 at the start of the axis, 1 at its end."""

    def ticks(self) -> list[tuple[float, str]]:
        """Places and names of the values that the axis names."""


def _nice_step(span: float, parts: int) -> float:
    rough = span / parts
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(one * unit for one in _NICE if one * unit >= rough * 0.999)


@dataclass(frozen=True, slots=True)
class Linear:
    """From the least value to the greatest.

    Attributes:
        low: at 0.
        high: at 1.
        parts: about so many names.
        whole: only whole numbers are named.
    """

    low: float
    high: float
    parts: int = 4
    whole: bool = False

    def place(self, value: float) -> float:
        """Where a value is."""
        half = self.high / 2 - self.low / 2  # which is finite where the difference is not
        return (value / 2 - self.low / 2) / half if half else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers within the axis."""
        span = self.high - self.low
        if not span or not math.isfinite(span) or not math.isfinite(1 / span):
            return [(self.place(one), tick(one)) for one in sorted({self.low, self.high})]
        step = _nice_step(span, self.parts)
        if self.whole:
            step = max(1.0, math.ceil(step))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        if last - first > 4 * self.parts:  # far from 0, where a float is not as precise as the step
            return [(self.place(one), tick(one)) for one in (self.low, self.high)]
        values = [one * step for one in range(first, last + 1)]
        return [(self.place(one), tick(one)) for one in values]


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """As `Linear`, of the logarithms of positive values."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Where a value is."""
        span = math.log(self.high) - math.log(self.low)
        return (math.log(value) - math.log(self.low)) / span if span else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Powers of ten, and 2 and 5 times these where they are few."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = max(1, math.ceil((last - first) / 5))
        factors = (1, 2, 5) if last - first <= 2 else (1, 3) if last - first <= 3 else (1,)  # noqa: PLR2004
        values = [
            factor * 10.0**power
            for power in range(first, last + 1)
            if power % every == 0
            for factor in factors
        ]
        return [
            (self.place(one), tick(one)) for one in values if self.low * 0.999 <= one <= self.high * 1.001
        ]


@dataclass(frozen=True, slots=True)
class Clock:
    """Times, in seconds since 1970; long stretches in which nothing happens are cut short.

    Attributes:
        knots: pairs of a time and its place, between which time passes evenly.
        breaks: the places of the stretches that were cut, and how long they are in seconds.
        since_start: name the hours since the first time, not the time of day.
    """

    knots: tuple[tuple[float, float], ...]
    breaks: tuple[tuple[float, float], ...] = ()
    since_start: bool = False

    @classmethod
    def of(cls, times: Sequence[float]) -> Clock:
        """The axis of some times of day."""
        known = sorted(set(times)) or [0.0]
        gaps = [after - before for before, after in itertools.pairwise(known)]
        if not gaps:
            return cls(((known[0] - 1, 0.0), (known[0] + 1, 1.0)))
        usual = sorted(gaps)[len(gaps) // 2]
        least = max(_BREAK_OF_ALL * sum(gaps), _BREAK_OF_USUAL * usual)
        cut = {place for place, gap in enumerate(gaps) if gap > least and len(gaps) > 2}  # noqa: PLR2004
        lasting = sum(gap for place, gap in enumerate(gaps) if place not in cut) or 1.0
        shown = lasting / (1 - _BREAK_WIDTH * len(cut))
        knots, breaks, place = [(known[0], 0.0)], [], 0.0
        for number, gap in enumerate(gaps):
            width = _BREAK_WIDTH if number in cut else gap / shown
            if number in cut:
                breaks.append((place + width / 2, gap))
            place += width
            if number in cut or number + 1 in cut or number + 1 == len(gaps):
                knots.append((known[number + 1], place))
        return cls(tuple(knots), tuple(breaks))

    def place(self, value: float) -> float:
        """Where a time is."""
        for (before, low), (after, high) in itertools.pairwise(self.knots):
            if value <= after:
                return low + (max(value, before) - before) / (after - before) * (high - low)
        return 1.0

    def ticks(self) -> list[tuple[float, str]]:
        """Round times, as far from one another as their names need; a new day is a second line."""
        stretches = [
            (before, after)
            for (before, low), (after, high) in itertools.pairwise(self.knots)
            if not any(low <= place <= high for place, _ in self.breaks)
        ]
        lasting = sum(after - before for before, after in stretches)
        interval = next(
            (one for one in _INTERVALS if one * 5 >= lasting), math.ceil(lasting / 5 / _DAY) * _DAY
        )
        origin = self.knots[0][0] if self.since_start else 0.0
        named: list[tuple[float, str]] = []
        day = ""
        for before, after in stretches:
            first, last = math.ceil((before - origin) / interval), math.floor((after - origin) / interval)
            for time in [origin + one * interval for one in range(first, last + 1)] or [before]:
                where = self.place(time)
                if named and where - named[-1][0] < _CLOSEST:
                    continue
                stated, today = self._name(time, interval, day)
                named.append((where, stated))
                day = today
        return named

    def _name(self, time: float, interval: float, day: str) -> tuple[str, str]:
        if self.since_start:
            passed = time - self.knots[0][0]
            for unit, letter in ((_DAY, "d"), (3600, "h"), (60, "min")):
                if interval >= unit:
                    return f"{passed / unit:g} {letter}", ""
            return f"{passed:.0f} s", ""
        when = datetime.datetime.fromtimestamp(time, datetime.UTC)
        today = f"{when.day} {when:%b}"
        if interval >= _DAY:
            return today, today
        stated = f"{when:%H:%M:%S}" if interval < 60 else f"{when:%H:%M}"  # noqa: PLR2004
        return (stated if today == day else f"{stated}\n{today}"), today
