"""The marks on the curves: checkpoints by state, the newest, the best, and values that are no numbers."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Iterator, Sequence

from marlin_ckpt.cli.views.report.course import Curve, Plan, Row
from marlin_ckpt.cli.views.report.parts import plotting
from marlin_ckpt.cli.views.report.parts.figures import number
from marlin_ckpt.operations.report.values import Best

_MOST_MARKS = 60  # of a chart; more are small
_ROOM = 0.025  # of the width, between a small mark and the next

Where = Callable[[int, str], tuple[float, float] | None]  # of a row and a metric; None where it is nowhere


def are_many(plan: Plan, curves: Sequence[Curve]) -> bool:
    """Whether a chart has more checkpoints than it has room for marks of full size."""
    return sum(plan.rows[place].point is not None for one in curves for place in one.rows) > _MOST_MARKS


def marks(plan: Plan, curve: Curve, where: Where, *, many: bool) -> Iterator[str]:
    """A mark at each checkpoint; of many small ones, and none of removed checkpoints beside another mark."""
    classes = f"c{curve.colour}"
    shape = plotting.SHAPES[curve.colour % len(plotting.SHAPES)]
    marked: dict[str, list[tuple[float, float]]] = {"gone": [], "there": [], "damaged": []}
    for place in curve.rows:
        point, at = plan.rows[place].point, where(place, curve.metric)
        if point and at:
            state = "gone" if not point.is_there else "damaged" if point.complete is False else "there"
            marked[state].append(at)
    if many:
        shape, last = "dot", -1.0
        others = sorted(x for x, _ in marked["there"])
        thinned = []
        for x, y in marked["gone"]:
            near = bisect.bisect_left(others, x)
            beside = min((abs(x - one) for one in others[max(0, near - 1) : near + 1]), default=1.0)
            if min(beside, x - last) >= _ROOM:
                last = x
                thinned.append((x, y))
        marked["gone"] = thinned
    yield plotting.marks(shape, marked["gone"], f"gone {classes}")
    yield plotting.marks(shape, marked["there"], f"there {classes}")
    yield plotting.marks("cross", marked["damaged"], "damaged")


def chosen(plan: Plan, curve: Curve, where: Where, best: Collection[int]) -> Iterator[str]:
    """The marks of the newest checkpoint, and of the best ones; to be drawn above all others."""
    own = [place for place in curve.rows if not curve.directory]
    newest = [p for p in own if plan.newest is not None and plan.rows[p].place == plan.newest]
    starred = [place for place in own if plan.rows[place].place in best]
    for symbol, places in ((f"ring c{curve.colour}", newest), ("star", starred)):
        drawn = [at for place in places if (at := where(place, curve.metric))]
        yield plotting.marks(symbol.partition(" ")[0], drawn, symbol)


def best_places(best: Sequence[Best], metric: str) -> set[int]:
    """The checkpoint of all runs that is best by a metric, and the best of those that are there."""
    found = set()
    for among in (best, [one for one in best if one.is_there]):
        mine = [one for one in among if one.metric == metric and not math.isnan(one.value)]
        if mine:
            found.add((min if mine[0].mode == "min" else max)(mine, key=lambda one: one.value).point)
    return found


def not_finite(plan: Plan, curves: Sequence[Curve], x: Callable[[Row], float | None]) -> Iterator[str]:
    """The word at the first of each stretch of values that are not numbers, none above another."""
    found = []
    for curve in curves:
        before = True
        for row, value in ((plan.rows[p], plan.rows[p].metrics[curve.metric]) for p in curve.rows):
            finite, where = math.isfinite(value), x(row)
            if before and not finite and where is not None:
                found.append((where, number(value)))
            before = finite
    last = -1.0
    for where, words in sorted(found):
        if where - last > 0.12:  # noqa: PLR2004 - the width of the word
            last = where
            anchor = " end" if where > 0.9 else ""  # noqa: PLR2004
            yield f'<text class="notfinite{anchor}" x="{plotting.percent(where)}" y="8">{words}</text>'
