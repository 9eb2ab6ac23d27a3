"""The section of saves: when each was, its size and stall, and what else happened in the runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from marlin_ckpt.cli.text import count, duration, size
from marlin_ckpt.cli.views.report.parts import plotting
from marlin_ckpt.cli.views.report.parts.axes import Clock
from marlin_ckpt.cli.views.report.parts.figures import UNKNOWN, at, seconds_of
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
from marlin_ckpt.operations.report.course import Happening, Point, Run
from marlin_ckpt.operations.report.values import Report

_LANE, _BAR = 50, 10  # pixels of a run's lane, and of the bar in it
_MOST_LANES = 8
_LAST_NAME = 0.7  # of the width: a name that begins after it would not end within, and ends with its run
_HEIGHT, _TOP = 84, 14
_SYMBOLS = {
    "started": ("play", "started"),
    "resumed": ("again", "resumed"),
    "save failed": ("cross", "a save failed"),
    "damaged": ("cross", "damaged"),
    "signal": ("bolt", "signal"),
    "ended": ("stop", "ended"),
}
ENDS = {
    "finished": ("check", "finished"),
    "stopped": ("stop", "stopped by a signal"),
    "failed": ("cross", "failed"),
    "killed": ("killed", "killed"),
    "running": ("more", "running"),
    "unknown": ("unknown", "no end is known"),
}


def show(report: Report, plots: dict[str, Any]) -> Html:
    """The section.

    Args:
        report: whose saves.
        plots: takes what the script needs to point at the values.
    """
    saves = [one for one in report.points if seconds_of(one.at) is not None]
    if not report.is_directory or not saves:
        return Html("")
    clock = Clock.of(list(_times(report, saves)))
    happened = _happened(report)
    drawn: list[Html] = []
    stalls = [one.stall_s for one in saves]
    has_stalls = any(one is not None for one in stalls)
    if report.runs and any(run.starts for run in report.runs):
        drawn.append(_lanes(report, clock, happened, plots))
    sizes = [float(one.size_bytes) for one in saves]
    drawn.append(_bars("size-bars", "Size", saves, sizes, clock, size, plots, named=not has_stalls))
    if has_stalls:
        drawn.append(
            _bars("stall-bars", "Stall of the loop", saves, stalls, clock, duration, plots, named=True)
        )
    return section(
        "timeline",
        "Saves over time",
        tag("p", "Each save and what else happened; times are in UTC.", class_="quiet"),
        tag("div", *drawn, class_="timeline"),
        _legend(report, happened, saves, clock),
        details(f"Table of the saves ({count(len(saves), 'row')})", _saves(saves)),
        details(f"Table of what else happened ({count(len(happened), 'row')})", _others(happened))
        if happened
        else "",
    )


def _times(report: Report, saves: Sequence[Point]) -> Iterator[float]:
    moments = [one.at for one in saves] + [one.at for one in report.happenings]
    for run in report.runs:
        moments += [moment for one in run.starts for moment in (one.at, one.ended_at or "")]
    yield from (when for one in moments if (when := seconds_of(one)) is not None)


def _happened(report: Report) -> list[Happening]:
    """What is listed, by time; a resume says more than the start that it belongs to."""
    resumes = {(one.run_id, seconds_of(one.at)) for one in report.happenings if one.kind == "resumed"}

    def repeats(one: Happening) -> bool:
        when = seconds_of(one.at)
        return one.kind == "started" and any(
            run == one.run_id and abs((other or 0) - (when or 0)) < 60  # noqa: PLR2004 - to read a large file
            for run, other in resumes
        )

    return sorted(
        (one for one in report.happenings if not repeats(one)), key=lambda one: seconds_of(one.at) or 0.0
    )


def _lanes(report: Report, clock: Clock, happened: Sequence[Happening], plots: dict[str, Any]) -> Html:
    known = [run for run in report.runs if run.starts]
    runs = known[-_MOST_LANES:]
    places = {run.run_id: place for place, run in enumerate(runs)}
    height = _LANE * len(runs) + 4
    parts = [
        plotting.foot(clock, height, named=False),
        plotting.upright((at_ for at_, _ in clock.breaks), height, "break"),
    ]
    for place, run in enumerate(runs):
        parts += _lane(run, place, clock)
    marked = []
    for number, one in enumerate(happened):
        when, lane = seconds_of(one.at), places.get(one.run_id)
        if when is None or lane is None:
            continue
        x, y = clock.place(when), _LANE * lane + _LANE - _BAR / 2 - 2 - (one.kind == "signal") * 15
        marked.append([number, *(round(x * 1000),) * 2, *(round(y),) * 2])
        if one.kind != "ended":
            symbol, _ = _SYMBOLS.get(one.kind, ("circle", ""))
            parts.append(plotting.marks(symbol, [(x, y)], f"event {symbol}"))
    plots["run-lanes"] = {"table": "events-table", "stops": marked}
    label = f"{count(len(runs), 'run')} over time, with {count(len(marked), 'mark')}"
    drawing = plotting.svg(height, *parts, classes="plot bare")
    drawn = tag("div", drawing, class_="plots", id="run-lanes", role="img", aria_label=label)
    older = len(known) - len(runs)
    left_out = tag("p", f"{count(older, 'older run')} not drawn.", class_="quiet") if older else ""
    return join([tag("h3", "Runs"), left_out, drawn])


def _lane(run: Run, place: int, clock: Clock) -> Iterator[str]:
    top = _LANE * place + _LANE - _BAR - 2
    first = seconds_of(run.starts[0].at)
    begins = ends = clock.place(first) if first is not None else 0.0
    for one in run.starts:
        begin, end = seconds_of(one.at), seconds_of(one.ended_at)
        if begin is None:
            continue
        left = clock.place(begin)
        right = clock.place(end) if end is not None else clock.place(_end_of(run, begin, clock))
        yield (
            f'<rect class="bar {one.how}" x="{plotting.percent(left)}" y="{top}" height="{_BAR}" rx="2"'
            f' width="{plotting.percent(max(right - left, 0.004))}"/>'
        )
        symbol, _ = ENDS[one.how]
        yield plotting.marks(symbol, [(right, top + _BAR / 2)], f"event end {symbol}")
        ends = max(ends, right)
    classes, x = ("lane end", ends) if begins > _LAST_NAME else ("lane", begins)
    named = text(run.run_id[:8] or "unknown")
    yield f'<text class="{classes}" x="{plotting.percent(x)}" y="{top - 18}">run {named}</text>'


def _end_of(run: Run, begin: float, clock: Clock) -> float:
    """Until when a process without an end is drawn: to the next start, or to the end."""
    after = [when for one in run.starts if (when := seconds_of(one.at)) is not None and when > begin]
    return min(after, default=clock.knots[-1][0])


def _bars(
    ident: str,
    title: str,
    saves: Sequence[Point],
    values: Sequence[float | None],
    clock: Clock,
    written: Any,
    plots: dict[str, Any],
    *,
    named: bool,
) -> Html:
    most = max((one for one in values if one is not None), default=0.0) or 1.0
    width = 6 if len(saves) <= 60 else 3 if len(saves) <= 150 else 2  # noqa: PLR2004 - so that they do not meet on a phone
    base = _HEIGHT
    parts = [
        f'<line class="grid" x1="0" x2="100%" y1="{_TOP}" y2="{_TOP}"/>',
        f'<text class="most" x="0" y="{_TOP - 4}">{text(written(most))}</text>',
        plotting.upright((place for place, _ in clock.breaks), base, "break", top=_TOP),
        plotting.foot(clock, base, named=named),
    ]
    stops = []
    rows: list[str] = []
    crosses: list[tuple[float, float]] = []
    for number, (one, value) in enumerate(zip(saves, values, strict=True)):
        when = seconds_of(one.at)
        if value is None or when is None:
            continue
        x, tall = clock.place(when), max(1.0, value / most * (base - _TOP))
        state = "gone" if not one.is_there else "damaged" if one.complete is False else "there"
        rows.append(
            f'<rect class="{state}" x="{plotting.percent(x)}" y="{plotting.px(base - tall)}" width="{width}"'
            f' height="{plotting.px(tall)}"/>'
        )
        if state == "damaged":
            crosses.append((x, base - tall - 6))
        stops.append([number, *(round(x * 1000),) * 2, *(round(base - tall),) * 2])
    parts.append(
        f'<g class="saves w{width}">{"".join(rows)}</g>{plotting.marks("cross", crosses, "damaged")}'
    )
    plots[ident] = {"table": "saves-table", "stops": stops}
    least = min((one for one in values if one is not None), default=0.0)
    label = f"{title} of {count(len(stops), 'save')}, from {written(least)} to {written(most)}"
    drawing = plotting.svg(base, *parts, classes="plot" if named else "plot bare")
    return join(
        [tag("h3", title), tag("div", drawing, class_="plots", id=ident, role="img", aria_label=label)]
    )


def _legend(report: Report, happened: Sequence[Happening], saves: Sequence[Point], clock: Clock) -> Html:
    shown: dict[str, str] = {}
    for kind in dict.fromkeys(one.kind for one in happened):
        if kind in _SYMBOLS and kind != "ended":
            symbol, words = _SYMBOLS[kind]
            shown[symbol] = f"{shown[symbol]}, {words}" if symbol in shown else words
    for how in dict.fromkeys(one.how for run in report.runs for one in run.starts):
        symbol, words = ENDS[how]
        shown[symbol] = f"{shown[symbol]}, {words}" if symbol in shown else words
    items = [tag("li", icon(symbol), words) for symbol, words in shown.items()]
    if any(not one.is_there for one in saves):
        hollow = Html('<g class="saves"><rect class="gone" x="4" y="2" width="6" height="11"/></g>')
        items.append(
            tag("li", tag("svg", hollow, width=14, height=14, aria_hidden="true"), "hollow: removed since")
        )
    if clock.breaks:
        line = Html('<line class="break" x1="7" x2="7" y1="0" y2="14"/>')
        drawn = tag("svg", line, width=14, height=14, aria_hidden="true")
        items.append(tag("li", drawn, "time without a save, cut short"))
    return tag("ul", *items, class_="legend marks")


def _saves(saves: Sequence[Point]) -> Html:
    def lasting(seconds: float | None) -> str:
        return UNKNOWN if seconds is None else duration(seconds)

    rows = [
        [
            name(one.name),
            tag("code", one.run_id[:8] or UNKNOWN),
            at(one.at),
            size(one.size_bytes),
            *(lasting(seconds) for seconds in (one.stall_s, one.copy_s, one.write_s, one.sync_s)),
            "there" if one.is_there else "removed",
        ]
        for one in saves
    ]
    titles = ["Checkpoint", "Run", "Saved (UTC)", "Size", "Stall", "Copy", "Write", "Sync", "State"]
    return table(titles, rows, caption="Saves, in order", numeric=range(3, 8), id="saves-table")


def _others(happened: Sequence[Happening]) -> Html:
    rows = [
        [
            at(one.at),
            tag("code", one.run_id[:8] or UNKNOWN),
            one.kind,
            one.what,
            name(one.name) if one.name else "",
            counted(one.step),
        ]
        for one in happened
    ]
    titles = ["Time (UTC)", "Run", "What", "Details", "Checkpoint", "Step"]
    return table(titles, rows, caption="What else happened, in order", numeric=[5], id="events-table")
