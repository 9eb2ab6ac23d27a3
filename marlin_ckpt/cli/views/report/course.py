"""The metrics of a report as rows of numbers, and which of them share a chart."""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from marlin_ckpt.cli.views.report.parts.figures import seconds_of
from marlin_ckpt.operations.report.course import Point, Run
from marlin_ckpt.operations.report.values import Report

MOST_ROWS = 1000  # of measurements that are drawn and listed
MOST_CURVES = 8  # of a chart: as many as there are colours
_TOGETHER = 3  # metrics of one chart, where there is one run
_BETWEEN = r"[/_.\s]"  # the words of a metric's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured at one step of one run.

    Attributes:
        run_id: of the run.
        directory: 0 for the report's own, 1 for the one that it is compared with.
        start: which process of the run, from 0.
        step: global steps that were done; None where that is not known.
        index: of the checkpoint, None where there is none.
        time_s: when, in seconds since 1970; None where that is not known.
        at: the same as the report has it.
        metrics: names and numbers.
        point: the checkpoint that was saved with these, if one was.
        place: of that in its report's points.
        redone: whether a later process did this step again.
    """

    run_id: str
    at: str
    metrics: Mapping[str, float]
    directory: int = 0
    start: int = 0
    step: int | None = None
    index: int | None = None
    time_s: float | None = None
    point: Point | None = None
    place: int | None = None
    redone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric of one run.

    Attributes:
        metric: its name.
        run_id: of the run.
        directory: as that of its rows.
        colour: which of the colours and shapes, from 0.
        rows: the places in the table of rows, in the order in which they were written.
    """

    metric: str
    run_id: str
    directory: int
    colour: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the section of metrics draws.

    Attributes:
        rows: all that is drawn; each once.
        charts: the titles of charts, each with its curves.
        by_step: whether the axis has steps; it has indices where steps are not known.
        measured: how many measurements there are, of which `rows` may be a part.
        hidden: how many older runs are not drawn.
        newest: the place of the newest checkpoint in the report's points.
        starts: of each run, by the directory's number and its id.
    """

    rows: tuple[Row, ...] = ()
    charts: tuple[tuple[str, tuple[Curve, ...]], ...] = ()
    by_step: bool = True
    measured: int = 0
    hidden: int = 0
    newest: int | None = None
    starts: Mapping[tuple[int, str], Run] = field(default_factory=dict)


def plan(report: Report) -> Plan:
    """What to draw of a report, and of the one that it is compared with."""
    reports = [report, *([report.other] if report.other else [])]
    rows = [row for number, one in enumerate(reports) for row in _rows_of(one, number)]
    by_step = all(row.step is not None for row in rows if row.point) or not any(row.point for row in rows)
    rows = [row for row in rows if by_step or row.index is not None]
    measured = len(rows)
    last: dict[tuple[int, str], float] = {}
    for row in rows:
        line = row.directory, row.run_id
        last[line] = max(last.get(line, 0.0), row.time_s or 0.0)
    ranks: dict[tuple[int, str], int] = {}  # from the newest run of each directory, so that both are there
    for line in sorted(last, key=lambda one: -last[one]):
        ranks[line] = sum(other[0] == line[0] for other in ranks)
    drawn = sorted(last, key=lambda one: ranks[one])[:MOST_CURVES]
    lines = [one for one in last if one in drawn]
    hidden = len(last) - len(lines)
    rows = thinned([row for row in rows if (row.directory, row.run_id) in lines])
    runs = {(number, run.run_id): run for number, one in enumerate(reports) for run in one.runs}
    return Plan(
        rows=tuple(rows),
        charts=tuple(_charts(rows, lines)),
        by_step=by_step,
        measured=measured,
        hidden=hidden,
        newest=report.newest,
        starts=runs,
    )


def _rows_of(report: Report, directory: int) -> Iterator[Row]:
    by_key: dict[tuple[str, int, int], Row] = {}
    starts = {run.run_id: sorted(seconds_of(one.at) or 0.0 for one in run.starts) for run in report.runs}

    def start_of(run_id: str, time_s: float | None) -> int:
        return max(0, bisect.bisect(starts.get(run_id, []), (time_s or 0.0) + 0.5) - 1)

    def add(row: Row, key: int) -> None:
        full = (row.run_id, row.start, key)
        before = by_key.get(full)
        if before is None:
            by_key[full] = row
        elif row.point:
            by_key[full] = replace(row, metrics={**before.metrics, **row.metrics})
        else:
            by_key[full] = replace(before, metrics={**row.metrics, **before.metrics})

    for place, point in enumerate(report.points):
        if not point.metrics or not point.is_state:
            continue
        when = seconds_of(point.at)
        row = Row(
            run_id=point.run_id, at=point.at, metrics=point.metrics, directory=directory, step=point.step,
            start=start_of(point.run_id, when), index=point.index, time_s=when, point=point, place=place,
        )  # fmt: skip
        add(row, point.step if point.step is not None else -1 - place)
    for one in report.measured:
        when = seconds_of(one.at)
        row = Row(
            run_id=one.run_id, at=one.at, metrics=one.metrics, directory=directory, step=one.step,
            start=start_of(one.run_id, when), time_s=when,
        )  # fmt: skip
        add(row, one.step)
    runs = {run.run_id: number for number, run in enumerate(report.runs)}
    rows = sorted(
        by_key.values(),
        key=lambda row: (runs.get(row.run_id, -1), row.start, row.step or 0, row.index or 0, row.time_s or 0),
    )
    first_steps: dict[str, dict[int, float]] = {}
    for row in rows:
        first_steps.setdefault(row.run_id, {}).setdefault(row.start, float(row.step or row.index or 0))
    again_from = {
        (run_id, start): min((step for later, step in firsts.items() if later > start), default=math.inf)
        for run_id, firsts in first_steps.items()
        for start in firsts
    }
    for row in rows:
        redone = float(row.step or row.index or 0) >= again_from[row.run_id, row.start]
        yield replace(row, redone=redone)


def thinned(rows: Sequence[Row], most: int = MOST_ROWS) -> list[Row]:
    """So many rows at most: all of checkpoints, and of each stretch of others those with extremes."""
    others = [number for number, row in enumerate(rows) if row.point is None]
    room = most - (len(rows) - len(others))
    if len(rows) <= most:
        return list(rows)
    kept = {number for number, row in enumerate(rows) if row.point}
    metrics = sorted({name for row in rows for name in row.metrics})
    stretches = max(1, room // (2 * max(1, len(metrics))))
    for stretch in range(stretches):
        part = others[len(others) * stretch // stretches : len(others) * (stretch + 1) // stretches]
        for metric in metrics:
            having = [number for number in part if math.isfinite(rows[number].metrics.get(metric, math.nan))]
            if having:
                kept.add(min(having, key=lambda number: rows[number].metrics[metric]))
                kept.add(max(having, key=lambda number: rows[number].metrics[metric]))
    return [row for number, row in enumerate(rows) if number in kept]


def _charts(rows: Sequence[Row], lines: Sequence[tuple[int, str]]) -> Iterator[tuple[str, tuple[Curve, ...]]]:
    names = sorted({name for row in rows for name in row.metrics}, key=_order)
    colours = {line: number for number, line in enumerate(lines)}

    def curve(metric: str, line: tuple[int, str], colour: int) -> Curve:
        having = tuple(
            number
            for number, row in enumerate(rows)
            if (row.directory, row.run_id) == line and metric in row.metrics
        )
        return Curve(metric=metric, run_id=line[1], directory=line[0], colour=colour, rows=having)

    if len(lines) > 1:
        for metric in names:
            curves = [curve(metric, line, colours[line]) for line in lines]
            yield metric, tuple(one for one in curves if one.rows)
        return
    groups: dict[str, list[str]] = {}
    for metric in names:
        groups.setdefault(_family(metric), []).append(metric)
    for members in groups.values():
        for first in range(0, len(members), _TOGETHER):
            part = members[first : first + _TOGETHER]
            yield (
                _common_end(part),
                tuple(curve(metric, lines[0], number) for number, metric in enumerate(part)),
            )


def _family(metric: str) -> str:
    """What metrics that share a chart have in common: the last word of their names."""
    return re.split(_BETWEEN, metric)[-1] or metric


def _common_end(metrics: Sequence[str]) -> str:
    """The words at the end of all of some names: `per_second`, `loss`; the whole of one."""
    words = [re.split(_BETWEEN, one)[::-1] for one in metrics]
    same = len(list(itertools.takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False))))
    starts = [0, *(found.end() for found in re.finditer(_BETWEEN, metrics[0]))]
    return metrics[0][starts[-same] :]


def _order(metric: str) -> tuple[int, str, str]:
    return ("loss" not in metric.lower(), _family(metric), metric)
