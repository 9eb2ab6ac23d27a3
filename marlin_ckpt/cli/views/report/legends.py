"""What the curves and marks of the charts of metrics mean."""

from __future__ import annotations

from collections.abc import Sequence

from marlin_ckpt.cli.views.report.course import Curve, Plan
from marlin_ckpt.cli.views.report.parts import plotting
from marlin_ckpt.cli.views.report.parts.figures import number
from marlin_ckpt.cli.views.report.parts.markup import Html, icon, join, short, tag


def legend(plan: Plan, curves: Sequence[Curve], title: str) -> Html:
    """Each curve of a chart with its newest value.

    Args:
        plan: that the curves are of.
        curves: of the chart.
        title: of the chart, which is not said again.
    """
    metrics = len({one.metric for one in curves})
    entries = (_entry(plan, one, title, metrics=metrics, count=len(curves)) for one in curves)
    return tag("ul", *entries, class_="legend")


def _entry(plan: Plan, curve: Curve, title: str, *, metrics: int, count: int) -> Html:
    values = [plan.rows[place].metrics[curve.metric] for place in curve.rows]
    shape = plotting.SHAPES[curve.colour % len(plotting.SHAPES)]
    dashed = " other" if curve.directory else ""
    sample = tag(
        "svg",
        Html(
            f'<line class="curve c{curve.colour}{dashed}" x1="0" x2="24" y1="7" y2="7"/>'
            f'<g class="there c{curve.colour}"><use href="#{shape}" x="12" y="7"/></g>'
        ),
        width=24, height=14, aria_hidden="true",
    )  # fmt: skip
    name: Html | str = short(curve.metric, 30) if curve.metric != title or metrics > 1 else ""
    if metrics == 1 and count > 1:
        name = join([tag("code", curve.run_id[:8] or "no run"), " (compared)" if curve.directory else ""])
    return tag("li", sample, tag("span", name, class_="who") if name else "", tag("b", number(values[-1])))


def marks_explained(plan: Plan, *, has_best: bool) -> Html:
    """What the marks of the charts mean, of those that occur."""
    points = [row.point for row in plan.rows if row.point and not row.directory]
    shown = [
        ("circle there", "a checkpoint that is there", any(one.is_there for one in points)),
        ("circle gone", "removed", any(not one.is_there for one in points)),
        ("cross damaged", "damaged", any(one.is_there and one.complete is False for one in points)),
        ("ring", "newest", plan.newest is not None),
        ("star", "best", has_best),
    ]
    items = [tag("li", _sample(symbol), words) for symbol, words, occurs in shown if occurs]
    if any(run.starts[1:] for run in plan.starts.values()):
        dashed = Html('<line class="resumed" x1="7" x2="7" y1="0" y2="14"/>')
        items.append(tag("li", tag("svg", dashed, width=14, height=14, aria_hidden="true"), "resumed"))
    if any(row.redone for row in plan.rows):
        again = Html('<line class="curve again c0" x1="0" x2="24" y1="7" y2="7"/>')
        items.append(
            tag("li", tag("svg", again, width=24, height=14, aria_hidden="true"), "done again after a resume")
        )
    return tag("ul", *items, class_="legend marks") if points else Html("")


def _sample(classes: str) -> Html:
    symbol, _, state = classes.partition(" ")
    if symbol in ("circle", "ring"):
        drawn = Html(f'<g class="{state or symbol} c0"><use href="#{symbol}" x="8" y="7"/></g>')
        return tag("svg", drawn, width=16, height=14, aria_hidden="true")
    return icon(symbol)
