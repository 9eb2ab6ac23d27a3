"""The section of metrics: the switches, the charts and the table of what they draw."""

from __future__ import annotations

from typing import Any

from marlin_ckpt.cli.text import count
from marlin_ckpt.cli.views.report import course, curves, legends
from marlin_ckpt.cli.views.report.parts.figures import at, number
from marlin_ckpt.cli.views.report.parts.figures import count as counted
from marlin_ckpt.cli.views.report.parts.markup import Html, details, join, name, section, table, tag
from marlin_ckpt.operations.report.values import Report


def show(report: Report, plots: dict[str, Any]) -> Html:
    """The section; one checkpoint has a list of its metrics in place of curves.

    Args:
        report: whose metrics.
        plots: takes what the script needs to point at the values.
    """
    plan = course.plan(report)
    if not plan.rows:
        if not report.points:
            return Html("")
        return section(
            "metrics", "Metrics", tag("p", "No checkpoint was saved with metrics.", class_="quiet")
        )
    titles, rows = _table(plan, report)
    fixed = len(titles) - len(_names(plan))
    columns = {metric: fixed + place for place, metric in enumerate(_names(plan))}
    if all(len(one.rows) < 2 for _, chart in plan.charts for one in chart):  # noqa: PLR2004 - a point is no curve
        return section("metrics", "Metrics", _values(plan))
    axes = curves.axes_of(plan)
    drawn = [
        curves.chart(
            plan, axes, report.best, f"chart-{place}", title=title, curves=shown, columns=columns, plots=plots
        )
        for place, (title, shown) in enumerate(plan.charts)
    ]
    numbers = table(
        titles,
        rows,
        caption="Metrics, as drawn above",
        numeric={*range(fixed - 4, fixed - 2), *columns.values()},
        id="metrics-table",
    )
    return section(
        "metrics",
        "Metrics",
        _switches(plan),
        tag("p", _said(plan, report), class_="quiet"),
        legends.marks_explained(plan, has_best=bool(report.best)),
        tag("div", *drawn, class_="charts"),
        details(f"Table of the metrics ({count(len(rows), 'row')})", numbers),
    )


def _said(plan: course.Plan, report: Report) -> str:
    parts = []
    if report.other:
        parts.append(
            "Dashed: the directory that this one is compared with. Time counts from each one's start."
        )
    if plan.measured > len(plan.rows):
        parts.append(
            f"{len(plan.rows):,} of {plan.measured:,} measurements are drawn: those of checkpoints, "
            "and the highest and lowest of each stretch."
        )
    if plan.hidden:
        parts.append(f"{count(plan.hidden, 'older run')} not drawn.")
    has_epochs = any(row.point is None for row in plan.rows)
    when = "Measured at the end of each epoch and at each save." if has_epochs else "Measured at each save."
    return " ".join([when, *parts])


def _switches(plan: course.Plan) -> Html:
    logarithmic = curves.is_logarithmic_at_first(plan)

    def radio(group: str, ident: str, words: str, *, checked: bool) -> Html:
        return tag(
            "label", tag("input", type="radio", name=group, id=ident, checked=checked), tag("span", words)
        )

    along = "Steps" if plan.by_step else "Index"
    time = "Time" if any(row.directory for row in plan.rows) else "Time (UTC)"  # compared from their starts
    return tag(
        "div",
        tag(
            "fieldset",
            tag("legend", "Over"),
            radio("along", "by-steps", along, checked=True),
            radio("along", "by-time", time, checked=False),
            class_="switch",
        ),
        tag(
            "fieldset",
            tag("legend", "Scale"),
            radio("scale", "linear", "Linear", checked=not logarithmic),
            radio("scale", "logarithmic", "Logarithmic", checked=logarithmic),
            class_="switch",
        ),
        class_="switches",
    )


def _names(plan: course.Plan) -> list[str]:
    return list(dict.fromkeys(one.metric for _, chart in plan.charts for one in chart))


def _table(plan: course.Plan, report: Report) -> tuple[list[Any], list[list[Any]]]:
    """Titles and rows: the run where there are several, step, index, time, checkpoint, and each metric."""
    lines = {(row.directory, row.run_id) for row in plan.rows}
    several = len(lines) > 1
    titles: list[Any] = ["Run"] * several + ["Step", "Index", "Time (UTC)", "Checkpoint"]
    titles += [name(metric) for metric in _names(plan)]
    best = {(one.point, one.metric) for one in report.best}
    rows = []
    for row in plan.rows:
        cells: list[Any] = [_run(row)] if several else []
        cells += [counted(row.step), counted(row.index), at(row.at), _checkpoint(row)]
        for metric in _names(plan):
            stated = number(row.metrics[metric]) if metric in row.metrics else ""
            is_best = not row.directory and (row.place, metric) in best
            cells.append(join([stated, " ★"]) if is_best else stated)
        rows.append(cells)
    return titles, rows


def _run(row: course.Row) -> Html:
    return join([tag("code", row.run_id[:8] or "no run"), " (compared)" if row.directory else ""])


def _checkpoint(row: course.Row) -> Html | str:
    if row.point is None:
        return ""
    state = ", removed" if not row.point.is_there else ", damaged" if row.point.complete is False else ""
    return join([name(row.point.name), state])


def _values(plan: course.Plan) -> Html:
    pairs = [(metric, value) for row in plan.rows for metric, value in sorted(row.metrics.items())]
    items = [tag("div", tag("dt", name(metric)), tag("dd", number(value))) for metric, value in pairs]
    return tag("dl", *items, class_="facts")
