"""What `list` prints."""

from __future__ import annotations

import itertools
import math
import os
from typing import TYPE_CHECKING

from marlin_ckpt.cli import output
from marlin_ckpt.cli.views.text import age, escape, metrics, size, spark
from marlin_ckpt.operations.listing import metric, run_of

if TYPE_CHECKING:
    from marlin_ckpt.formats.inspection import Inspection

_INTACT = {True: "yes", False: "no", None: "?"}


def table(found: list[Inspection], directory: str, *, now_s: float, by_run: bool) -> None:
    """Prints a row for each file; with a column for the run where there are several."""
    if not found:
        output.talk(f"no checkpoints in {escape(directory)}")
        return
    titles = ["index", "kind", "size", "age", "metrics", "intact", "file"]
    rows = [_row(one, directory, now_s) for one in found]
    figures = {0, 2, 3}
    if by_run and len({run_of(one)[1] for one in found} - {""}) > 1:
        titles = ["run", *titles]
        rows = [[escape(run_of(one)[1]) or "-", *row] for one, row in zip(found, rows, strict=True)]
        figures = {number + 1 for number in figures}
    output.table(titles, rows, figures)


def _row(one: Inspection, directory: str, now_s: float) -> list[str]:
    return [
        "-" if one.entry.index is None else str(one.entry.index),
        str(one.kind),
        size(one.entry.size_bytes),
        age(now_s - one.entry.modified_ns / 1e9),
        metrics(one.manifest.metrics) if one.manifest else "",
        _INTACT[one.intact] + (f": {escape(one.reason)}" if one.reason else ""),
        escape(os.path.relpath(one.entry.path, directory)),
    ]


def sparks(found: list[Inspection], name: str) -> None:
    """Prints a line for each run: a metric over the index."""
    output.data("")
    for (_, run_id), files in itertools.groupby(sorted(found, key=run_of), run_of):
        ordered = sorted(files, key=lambda one: one.entry.index or 0)
        values = [value for one in ordered if math.isfinite(value := metric(one, name))]
        if values:
            ends = f"{values[0]:.4g} to {values[-1]:.4g}, least {min(values):.4g}, greatest {max(values):.4g}"
            output.data(f"{escape(name)} of run {escape(run_id) or '-'}  {spark(values)}  {ends}")
