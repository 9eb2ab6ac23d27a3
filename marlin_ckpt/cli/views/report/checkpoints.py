"""The section of checkpoints: a table of all that are there, or were."""

from __future__ import annotations

import math
from typing import Any

from marlin_ckpt.cli.text import count, duration, size
from marlin_ckpt.cli.views.report.parts.figures import UNKNOWN, at, number
from marlin_ckpt.cli.views.report.parts.figures import count as counted
from marlin_ckpt.cli.views.report.parts.markup import Html, icon, join, name, section, table, tag
from marlin_ckpt.operations.report.course import Point
from marlin_ckpt.operations.report.values import Report

_MOST_METRICS = 8
_FIGURES = ("Index", "Step", "Size", "Own", "Stall")


def show(report: Report) -> Html:
    """The section, the newest first; empty of a single checkpoint."""
    if not report.is_directory:
        return Html("")
    if not report.points:
        return section(
            "checkpoints", "Checkpoints", tag("p", "There are no checkpoints here.", class_="quiet")
        )
    points = list(enumerate(report.points))[::-1]
    several = len({one.run_id for _, one in points}) > 1
    kinds = len({one.kind for _, one in points}) > 1
    metrics = list(dict.fromkeys(metric for _, one in points for metric in sorted(one.metrics)))
    shown, rest = metrics[:_MOST_METRICS], metrics[_MOST_METRICS:]
    best = {(one.point, one.metric) for one in report.best}
    titles: list[Any] = ["Checkpoint", "State"]
    indexed = any(one.index != one.step for _, one in points)  # else the index is the step
    titles += ["Run"] * several + ["Kind"] * kinds + ["Index"] * indexed
    shares = any(one.own_bytes is not None and one.own_bytes < one.size_bytes for _, one in points)
    titles += ["Step", "Saved (UTC)", "Size"] + ["Own"] * shares + ["Stall"]
    fixed = len(titles)
    titles += [name(metric) for metric in shown]
    rows = []
    for place, one in points:
        cells: list[Any] = [name(one.name), _state(one, newest=place == report.newest)]
        cells += [tag("code", one.run_id[:8] or UNKNOWN)] * several + [one.kind] * kinds
        cells += [counted(one.index)] * indexed
        cells += [counted(one.step), at(one.at), size(one.size_bytes)]
        cells += [UNKNOWN if one.own_bytes is None else size(one.own_bytes)] * shares
        cells.append(UNKNOWN if one.stall_s is None else duration(one.stall_s))
        cells += [_metric(one, metric, best=(place, metric) in best) for metric in shown]
        rows.append(cells)
    of_point = {place for place, title in enumerate(titles[:fixed]) if title in _FIGURES}
    numeric = of_point | {*range(fixed, len(titles))}
    made = table(titles, rows, caption="Checkpoints, the newest first", numeric=numeric, id="points-table")
    more = f"{count(len(rest), 'more metric')} in the table of the metrics." if rest else ""
    return section("checkpoints", "Checkpoints", made, tag("p", more, class_="quiet") if more else "")


def _metric(one: Point, metric: str, *, best: bool) -> Html | str:
    if metric not in one.metrics:
        return ""
    value = one.metrics[metric]
    stated = number(value)
    if not math.isfinite(value):
        return tag("strong", stated, class_="bad")
    return (
        join([tag("span", "★", role="img", aria_label="best"), " ", tag("strong", stated)])
        if best
        else stated
    )


def _state(one: Point, *, newest: bool) -> Html:
    if not one.is_there:
        return tag("span", f"removed{f' by {one.removed_by}' if one.removed_by else ''}", class_="quiet")
    if one.complete is False:
        return join(
            [icon("cross"), tag("strong", " damaged", class_="bad"), f": {one.reason}" if one.reason else ""]
        )
    words = "there" if one.complete is None else "complete"
    return join([words, *([", ", tag("strong", "newest")] if newest else [])])
