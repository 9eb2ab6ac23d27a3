"""The section of retention: which checkpoints the rules keep, and which rule keeps each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marlin_ckpt.cli.text import count, size
from marlin_ckpt.cli.views.report.parts import plotting
from marlin_ckpt.cli.views.report.parts.figures import count as counted
from marlin_ckpt.cli.views.report.parts.markup import (
    Html,
    details,
    icon,
    join,
    name,
    section,
    table,
    tag,
    text,
)
from marlin_ckpt.operations.report.course import Point
from marlin_ckpt.operations.report.values import Report, Retention

_MOST_REASONS = 8
_ROW = 30
_MANY = 60  # checkpoints, whose marks are small
_CLOSEST = 0.18  # of the width, between two names of runs: what one takes on a phone
_SOURCES = {"run": "set by the run", "options": "asked for with the options"}


def show(report: Report, plots: dict[str, Any]) -> Html:
    """The section; empty of a single checkpoint.

    Args:
        report: of which directory.
        plots: takes what the script needs to point at the marks.
    """
    if not report.is_directory or not report.points:
        return Html("")
    decided = [one for one in report.points if one.keeps is not None or not one.is_there]
    parts: list[object] = [_rule(one, several=len(report.retention) > 1) for one in report.retention]
    if not report.retention:
        parts.append(tag("p", "No rules are known for these checkpoints: all stay.", class_="quiet"))
    elif decided:
        parts.append(_matrix(decided, plots))
    if decided:
        parts.append(details(f"Table of what stays and why ({count(len(decided), 'row')})", _table(decided)))
    return section("retention", "Retention", *parts)


def _rule(one: Retention, *, several: bool) -> Html:
    whose = ["Run ", tag("code", one.run_id[:8] or "unknown"), ": "] if several else []
    stays = [
        f"{count(one.kept, 'checkpoint')} (",
        tag("span", size(one.kept_bytes), class_="whole"),
        ") stay",
    ]
    size_of_rest = tag("span", size(one.removed_bytes), class_="whole")
    goes = [f"{one.removed:,} (", size_of_rest, ") would go"] if one.removed else ["nothing would go"]
    return tag(
        "p",
        *whose,
        "The rules ",
        tag("strong", name(one.rules)),
        f", {_SOURCES[one.source]}: ",
        *(*stays, ", ", *goes, "."),
    )


def _matrix(points: Sequence[Point], plots: dict[str, Any]) -> Html:
    """A line for each rule with a mark at each checkpoint that it keeps, then those that go or went."""
    reasons = list(dict.fromkeys(why for one in points if one.keeps and one.is_there for why in one.reasons))
    shown, rest = reasons[:_MOST_REASONS], set(reasons[_MOST_REASONS:])
    there = [(place, one) for place, one in enumerate(points) if one.is_there]
    lines = [
        *(
            (why, "circle", "there c0", [place for place, one in there if why in one.reasons])
            for why in shown
        ),
        (
            f"{len(rest)} other reasons",
            "circle",
            "there c0",
            [p for p, one in there if rest & {*one.reasons}],
        ),
        ("would be removed", "cross", "damaged", [p for p, one in there if one.keeps is False]),
        ("removed", "circle", "gone c0", [p for p, one in enumerate(points) if not one.is_there]),
    ]
    lines = [line for line in lines if line[-1]]
    height = _ROW * len(lines) + 4
    stops, parts = [], []
    begins = [n for n, one in enumerate(points) if not n or one.run_id != points[n - 1].run_id]
    places = [(n + 0.5) / len(points) for n in range(len(points))]
    for row, (words, mark, state, found) in enumerate(lines):
        y = _ROW * row + _ROW - 8
        number = f'<tspan class="quiet">{len(found):,} checkpoint{"s" * (len(found) != 1)}</tspan>'
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(plotting.upright((n / len(points) for n in begins[1:]), y + 6, "axis", top=y - 5))
        parts.append(f'<text class="lane" x="0" y="{y - 9}">{text(_cut(words))}: {number}</text>')
        small = mark == "circle" and len(points) > _MANY
        parts.append(plotting.marks("dot" if small else mark, [(places[n], y) for n in found], state))
        stops += [[n, *(round(places[n] * 1000),) * 2, y, y] for n in found]
    parts.append(_runs(points, begins, height) if begins[1:] else _named(points, places, height))
    plots["kept-by-rule"] = {"table": "retention-table", "stops": sorted(stops)}
    label = "Which rule keeps which checkpoint, in order of save: " + ", ".join(
        f"{words}: {len(found):,}" for words, _, _, found in lines
    )
    drawing = plotting.svg(height, *parts, classes="plot places")
    return tag("div", drawing, class_="plots", id="kept-by-rule", role="img", aria_label=label)


def _cut(words: str) -> str:
    return words if len(words) <= 34 else words[:33] + "…"  # noqa: PLR2004 - the width of a phone


def _named(points: Sequence[Point], places: Sequence[float], height: float) -> str:
    """The indices of some checkpoints, as many as there is room for."""
    every = max(1, -(-len(points) // 6))
    drawn = [
        f'<text class="x" x="{plotting.percent(places[n])}" y="{height + 15}">{one.index}</text>'
        for n, one in enumerate(points)
        if n % every == 0 and one.index is not None
    ]
    return _axis(height) + "".join(drawn)


def _axis(height: float) -> str:
    return f'<line class="axis" x1="0" x2="100%" y1="{height}" y2="{height}"/>'


def _runs(points: Sequence[Point], begins: Sequence[int], height: float) -> str:
    """The names of the runs where they begin, as many as there is room for."""
    parts = [
        _axis(height),
        plotting.upright((n / len(points) for n in begins), height + 5, "axis", top=height),
    ]
    last = -1.0
    for n in begins:
        place = n / len(points)
        if last + _CLOSEST <= place <= 1 - _CLOSEST:
            run = text(points[n].run_id[:8] or "no run")
            parts.append(
                f'<text class="x start" x="{plotting.percent(place)}" y="{height + 15}">{run}</text>'
            )
            last = place
    return "".join(parts)


def _table(points: Sequence[Point]) -> Html:
    rows = []
    for one in points:
        why = "; ".join(one.reasons) if one.is_there else one.removed_reason
        rows.append([name(one.name), counted(one.index), size(one.size_bytes), _verdict(one), name(why)])
    titles = ["Checkpoint", "Index", "Size", "Retention", "Why"]
    return table(titles, rows, caption="What the rules keep and why", numeric=(1, 2), id="retention-table")


def _verdict(one: Point) -> Html:
    if not one.is_there:
        by = f" by {one.removed_by}" if one.removed_by else ""
        return join(["removed", by])
    return join([icon("check"), " stays"]) if one.keeps else join([icon("cross"), " would go"])
