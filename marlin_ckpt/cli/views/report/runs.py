"""The section of runs: each process of each run, from what it continued and how it ended."""

from __future__ import annotations

from typing import Any

from marlin_ckpt.cli.text import count, duration
from marlin_ckpt.cli.views.report.parts.figures import UNKNOWN, at, seconds_of
from marlin_ckpt.cli.views.report.parts.markup import Html, details, icon, join, name, section, table, tag
from marlin_ckpt.cli.views.report.timeline import ENDS
from marlin_ckpt.operations.report.course import Run, Start
from marlin_ckpt.operations.report.values import Report


def show(report: Report) -> Html:
    """The section; empty where nothing of the runs is known."""
    runs = [run for run in report.runs if run.starts]
    if not runs or not report.is_directory:
        return Html("")
    rows = [_row(run, number, start) for run in runs for number, start in enumerate(run.starts)]
    titles = [
        "Run",
        "Start",
        "Started (UTC)",
        "Lasted",
        "Ended",
        "Resumed from",
        "Ranks",
        "Commit",
        "Configuration",
        "Versions",
    ]
    made = table(titles, rows, caption="Runs and their starts, in order", numeric=(1, 3, 6), id="runs-table")
    said = (
        f"{count(len(runs), 'run')}, {count(len(rows), 'start')}. A run that is resumed stays the same run."
    )
    passed = [
        tag("li", tag("code", run.run_id[:8]), f", start {number + 1}: ", name(other), f", {why}")
        for run in runs
        for number, start in enumerate(run.starts)
        for other, why in start.passed_over.items()
    ]
    over = (
        details(f"Checkpoints that a resume passed over ({len(passed)})", tag("ul", *passed))
        if passed
        else ""
    )
    return section("runs", "Runs", tag("p", said, class_="quiet"), made, over)


def _row(run: Run, number: int, start: Start) -> list[Any]:
    begin, end = seconds_of(start.at), seconds_of(start.ended_at)
    lasted = duration(end - begin) if begin is not None and end is not None and end >= begin else UNKNOWN
    ended = join(
        [
            icon(ENDS[start.how][0]),
            " ",
            ENDS[start.how][1],
            f": {start.error}" if start.error else "",
        ]
    )
    resumed: list[object] = [name(start.resumed_from)] if start.resumed_from else ["from the beginning"]
    if start.passed_over:
        resumed.append(f" (passed over {len(start.passed_over)})")
    return [
        tag("code", run.run_id[:8] or "unknown", title=run.run_id or None),
        f"{number + 1}",
        at(start.at),
        lasted,
        ended,
        join(resumed),
        f"{start.world_size}" if start.world_size else UNKNOWN,
        tag("code", start.git_commit[:8]) if start.git_commit else UNKNOWN,
        tag("code", start.config_sha256[:8]) if start.config_sha256 else UNKNOWN,
        ", ".join(f"{package} {version}" for package, version in start.versions.items()) or UNKNOWN,
    ]
