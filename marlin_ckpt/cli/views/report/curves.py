"""Draws the metrics: a chart for each family of them, over steps and over time, linear and logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marlin_ckpt.cli.views.report import marks
from marlin_ckpt.cli.views.report.course import Curve, Plan, Row
from marlin_ckpt.cli.views.report.legends import legend
from marlin_ckpt.cli.views.report.marks import Where
from marlin_ckpt.cli.views.report.parts import plotting
from marlin_ckpt.cli.views.report.parts.axes import Clock, Linear, Logarithmic, Scale
from marlin_ckpt.cli.views.report.parts.figures import number
from marlin_ckpt.cli.views.report.parts.markup import Html, short, tag
from marlin_ckpt.operations.report.values import Best

HEIGHT = 180
_PAD = 15  # pixels above the greatest value and below the least
_LOG_FROM, _LOG_AT_FIRST = 8, 30  # greatest by least value: a logarithm is offered, and shown at first


@dataclass(frozen=True, slots=True)
class Axes:
    """The two axes along the width: of steps, and of time for each directory."""

    steps: Linear
    times: Sequence[Clock]

    def x(self, row: Row, *, time: bool) -> float | None:
        """Where a row is; None where that is not known."""
        if time:
            return None if row.time_s is None else self.times[row.directory].place(row.time_s)
        value = row.step if row.step is not None else row.index
        return None if value is None else self.steps.place(value)


def axes_of(plan: Plan) -> Axes:
    """The axes that all charts of metrics share."""
    steps = [
        float(value)
        for row in plan.rows
        if (value := row.step if row.step is not None else row.index) is not None
    ] or [0.0]
    compared = any(row.directory for row in plan.rows)
    times = [
        [row.time_s for row in plan.rows if row.time_s is not None and row.directory == number]
        for number in (0, 1)
    ]
    if compared:  # both from their own start, over as many hours
        spans = [(min(one), max(one)) if one else (0.0, 0.0) for one in times]
        longest = max(1.0, *(after - before for before, after in spans))
        return Axes(
            Linear(min(steps), max(steps), 5, whole=True),
            [Clock(((first, 0.0), (first + longest, 1.0)), since_start=True) for first, _ in spans],
        )
    return Axes(Linear(min(steps), max(steps), 5, whole=True), [Clock.of(one) for one in times])


def is_logarithmic_at_first(plan: Plan) -> bool:
    """Whether some losses span so much that a linear axis shows a flat line."""
    return any(
        "loss" in title.lower() and low > 0 and high / low > _LOG_AT_FIRST
        for title, curves in plan.charts
        for low, high in [_span(plan, curves)]
    )


def _span(plan: Plan, curves: Sequence[Curve]) -> tuple[float, float]:
    values = [plan.rows[place].metrics[one.metric] for one in curves for place in one.rows]
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    return min(finite), max(finite)


def chart(
    plan: Plan,
    axes: Axes,
    best: Sequence[Best],
    ident: str,
    *,
    title: str,
    curves: Sequence[Curve],
    columns: Mapping[str, int],
    plots: dict[str, Any],
) -> Html:
    """One chart, with its legend.

    Args:
        plan: what is drawn.
        axes: along the width.
        best: the best checkpoints of the report.
        ident: of the chart in the page.
        title: of it.
        curves: in it.
        columns: where each metric is in the table of the rows.
        plots: takes what the script needs to point at the values.
    """
    low, high = _span(plan, curves)
    logs = low > 0 and high / low >= _LOG_FROM
    scales: dict[str, Scale] = {"lin": _linear(low, high)}
    if logs:
        scales["log"] = Logarithmic(low, high)
    drawings = [
        _drawing(plan, axes, best, curves, scale=scale, time=time, classes=_variant(kind, time, logs=logs))
        for time in (False, True)
        for kind, scale in scales.items()
    ]
    plots[ident] = {
        "table": "metrics-table",
        "fixed": min(columns.values()),
        "columns": sorted({columns[one.metric] for one in curves}),
        "stops": [
            [place, *(_thousand(axes.x(row, time=time)) for time in (False, True)),
             round(_y(scales["lin"], value)), round(_y(scales.get("log", scales["lin"]), value))]
            for one in curves
            for place in one.rows
            for row in [plan.rows[place]]
            for value in [row.metrics[one.metric]]
        ],
    }  # fmt: skip
    drawn = tag(
        "div", *drawings, class_="plots", id=ident, role="img", aria_label=_described(title, plan, curves)
    )
    heading = tag("h3", short(title))
    return tag("figure", tag("figcaption", heading, legend(plan, curves, title)), drawn, class_="chart")


def _variant(kind: str, time: bool, *, logs: bool) -> str:
    return f"plot {'time' if time else 'steps'}" + (f" {kind}" if logs else "")


def _thousand(place: float | None) -> int:
    return -1 if place is None else round(place * 1000)


def _linear(low: float, high: float) -> Linear:
    if low == high:
        around = abs(low) * 0.1 or 1.0
        return Linear(low - around, high + around)
    return Linear(low, high)


def _y(scale: Scale, value: float) -> float:
    """Pixels from the top; a value that is not finite is at the top edge."""
    return HEIGHT - _PAD - scale.place(value) * (HEIGHT - 2 * _PAD) if math.isfinite(value) else 4.0


class _Padded:
    """A scale between the paddings of the chart."""

    def __init__(self, scale: Scale) -> None:
        self._scale = scale

    def place(self, value: float) -> float:
        return 1 - _y(self._scale, value) / HEIGHT

    def ticks(self) -> list[tuple[float, str]]:
        return [((place * (HEIGHT - 2 * _PAD) + _PAD) / HEIGHT, name) for place, name in self._scale.ticks()]


def _drawing(
    plan: Plan,
    axes: Axes,
    best: Sequence[Best],
    curves: Sequence[Curve],
    *,
    scale: Scale,
    time: bool,
    classes: str,
) -> Html:
    along = axes.times[0] if time else axes.steps
    parts = [plotting.grid(_Padded(scale), HEIGHT), plotting.foot(along, HEIGHT)]
    if time:
        parts.append(plotting.upright((place for place, _ in axes.times[0].breaks), HEIGHT, "break"))
    parts.append(plotting.upright(_resumes(plan, axes, time=time), HEIGHT, "resumed"))

    def where(place: int, metric: str) -> tuple[float, float] | None:
        row = plan.rows[place]
        x, value = axes.x(row, time=time), row.metrics.get(metric, math.nan)
        return None if x is None or not math.isfinite(value) else (x, _y(scale, value))

    for one in curves:
        parts += _curve(plan, one, where)
    for one in curves:
        parts += marks.marks(plan, one, where, many=marks.are_many(plan, curves))
    for one in curves:
        parts += marks.chosen(plan, one, where, marks.best_places(best, one.metric))
    parts += marks.not_finite(plan, curves, lambda row: axes.x(row, time=time))
    return plotting.svg(HEIGHT, *parts, classes=classes)


def _curve(plan: Plan, curve: Curve, where: Where) -> Iterator[str]:
    """The line, from process to process; from a resume it begins at the checkpoint that was taken up."""
    classes = f"c{curve.colour}" + (" other" if curve.directory else "")
    stretches: dict[bool, list[list[tuple[float, float]]]] = {False: [], True: []}
    starts = sorted({plan.rows[place].start for place in curve.rows})
    run = plan.starts.get((curve.directory, curve.run_id))
    for start in starts:
        mine = [place for place in curve.rows if plan.rows[place].start == start]
        if run and start < len(run.starts) and (origin := run.starts[start].resumed_from):
            mine = [
                *(
                    p
                    for p in curve.rows
                    if (point := plan.rows[p].point) and point.name == origin and p < mine[0]
                ),
                *mine,
            ]
        for again in (False, True):
            stretch: list[tuple[float, float]] = []
            for after, place in enumerate(mine, 1):
                beside = again and after < len(mine) and plan.rows[mine[after]].redone
                at = where(place, curve.metric)
                if at is None or not (plan.rows[place].redone == again or beside):
                    stretches[again].append(stretch)
                    stretch = []
                else:
                    stretch.append(at)
            stretches[again].append(stretch)
    yield plotting.line(stretches[True], HEIGHT, f"curve again {classes}")
    yield plotting.line(stretches[False], HEIGHT, f"curve {classes}")


def _resumes(plan: Plan, axes: Axes, *, time: bool) -> Iterator[float]:
    seen = set()
    for before, row in zip(plan.rows, plan.rows[1:], strict=False):
        same = (before.directory, before.run_id) == (row.directory, row.run_id)
        place = axes.x(row, time=time)
        if (
            same
            and row.start != before.start
            and not row.directory
            and place is not None
            and place not in seen
        ):
            seen.add(place)
            yield place


def _described(title: str, plan: Plan, curves: Sequence[Curve]) -> str:
    ends = []
    for one in curves:
        first, last = (plan.rows[place].metrics[one.metric] for place in (one.rows[0], one.rows[-1]))
        ends.append(
            f"{one.metric} of run {one.run_id[:8] or 'unknown'} from {number(first)} to {number(last)}"
        )
    return f"{title}: {'; '.join(ends)}"
