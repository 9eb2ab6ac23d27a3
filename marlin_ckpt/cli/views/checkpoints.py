"""The checkpoints of a directory that `list` prints, and those in the report of `train`."""

import datetime
import os
from collections.abc import Collection, Sequence
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import age, count, metrics, size, some, spark
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.operations.listing import metric_by_run, run_of

_COMPLETE = {True: "yes", False: "no", None: "?"}


def show(
    found: Sequence[Inspection], directory: str, shown: Collection[str], *, now_s: float, by_run: bool
) -> None:
    """Prints a row for each file.

    Args:
        found: the files.
        directory: the one that they were found in.
        shown: the names of the metrics to print.
        now_s: the time, in seconds since 1970, that ages are counted to.
        by_run: add a column for the run, where there are several.
    """
    if not found:
        output.talk(f"no checkpoints in {escape(directory)}")
        return
    several = by_run and len({run_of(one)[1] for one in found} - {""}) > 1
    titles = ["run", "index", "kind", "size", "age", "metrics", "complete", "file"]
    rows = [_row(one, directory, shown, now_s, with_run=several) for one in found]
    output.table(titles, rows, {"index", "size", "age"})


def tell_of_more(known: Sequence[str], shown: Collection[str]) -> None:
    """Says which metrics the table leaves out."""
    if more := [name for name in known if name not in shown]:
        output.talk(f"hint: {count(len(more), 'more metric')}, --metric NAME prints one: {some(more)}")


def _row(
    one: Inspection, directory: str, shown: Collection[str], now_s: float, *, with_run: bool
) -> list[str]:
    return [
        (escape(run_of(one)[1]) or "-") if with_run else "",
        "-" if one.entry.index is None else str(one.entry.index),
        _kind(one),
        size(one.entry.size_bytes),
        age(now_s - one.written_s),
        metrics({name: value for name, value in one.metrics.items() if name in shown}),
        _COMPLETE[one.complete] + (f": {escape(one.reason)}" if one.reason else ""),
        escape(os.path.relpath(one.entry.path, directory)),
    ]


def _kind(one: Inspection) -> str:
    return one.entry.layout if layouts.is_foreign(one.entry) else str(one.kind)


def show_metric(found: Sequence[Inspection], name: str) -> None:
    """Prints a line for each run: a metric over the index, drawn with blocks."""
    output.data("")
    for run_id, values in metric_by_run(found, name):
        ends = f"{values[0]:.4g} to {values[-1]:.4g}, least {min(values):.4g}, greatest {max(values):.4g}"
        output.data(f"{escape(name)} of run {escape(run_id) or '-'}  {spark(values)}  {ends}")


def document(directory: str, found: Sequence[Inspection]) -> dict[str, Any]:
    """The document of `list --json`."""
    return {"directory": directory, "checkpoints": [checkpoint(one) for one in found]}


def checkpoint(one: Inspection) -> dict[str, Any]:
    """One file as the documents of `list` and `train` describe it."""
    return {
        **facts(one.entry, "path", "index", "size_bytes"),
        **facts(one, "kind", "complete"),
        "layout": one.entry.layout or None,
        "intact": None,  # which only `verify` can tell, since it reads the data
        "modified": _time(one.entry.modified_ns),
        "reason": one.reason or None,
        "metrics": dict(one.metrics) if one.manifest or one.metrics or one.entry.layout else None,
        **facts(one.manifest, "run_id", "save_number", "created", "versions"),
    }


def _time(ns: int) -> str | None:
    try:
        return datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):  # beyond the year 9999, which some file systems hold
        return None
