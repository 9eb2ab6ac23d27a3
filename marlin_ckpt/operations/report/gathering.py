"""Makes the report of a directory, or of one checkpoint, from manifests and history; reads no tensors."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence

from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.history.events import now
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.operations.report.course import Point, Run
from marlin_ckpt.operations.report.values import Report, Totals
from marlin_ckpt.version import __version__


def gather(path: str, *, prefix: str | None = None, extension: str = "pt", recursive: bool = False) -> Report:
    """The report of a directory, or of one checkpoint.

    Args:
        path: of it.
        prefix: only checkpoints of this prefix; None: of all.
        extension: of files, without its dot.
        recursive: sub-directories too.

    Raises:
        CheckpointNotFoundError: there is nothing of this name.
        StorageError: it cannot be read.
    """
    if os.path.isdir(path):
        entries = catalog.listed(path, prefix=prefix, extension=extension, recursive=recursive)
    elif one := catalog.entry(path):
        entries = [one]
    else:
        raise CheckpointNotFoundError("no such file or directory", path)
    found = [inspect(one) for one in entries]
    points = [_point(one, path) for one in found]
    points.sort(key=lambda one: (one.run_id, one.save_number, one.at, one.name))
    runs = tuple(Run(run_id=run_id) for run_id in dict.fromkeys(one.run_id for one in points))
    return Report(
        directory=path,
        made=now(),
        version=__version__,
        is_directory=os.path.isdir(path),
        runs=runs,
        points=tuple(points),
        newest=next((place for place, one in reversed([*enumerate(points)]) if one.complete), None),
        totals=_totals(points),
    )


def _point(found: Inspection, directory: str) -> Point:
    about = found.manifest
    return Point(
        run_id=about.run_id if about else "",
        name=os.path.relpath(found.entry.path, directory),
        kind=found.entry.layout if layouts.is_foreign(found.entry) else str(found.kind),
        index=found.entry.index if about is None else about.index,
        save_number=about.save_number if about else 0,
        at=about.created if about else _time(found.entry.modified_ns),
        size_bytes=found.entry.size_bytes,
        complete=found.complete,
        reason=found.reason,
        metrics=dict(found.metrics),
    )


def _totals(points: Sequence[Point]) -> Totals:
    there = [one for one in points if one.is_there]
    gone = [one for one in points if not one.is_there]
    return Totals(
        checkpoints=len(there),
        size_bytes=sum(one.size_bytes for one in there),
        removed=len(gone),
        freed_bytes=sum(one.size_bytes for one in gone),
        incomplete=sum(one.complete is False for one in there),
    )


def _time(ns: int) -> str:
    try:
        when = datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC)
    except (ValueError, OverflowError):  # beyond the year 9999, which some file systems hold
        return ""
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
