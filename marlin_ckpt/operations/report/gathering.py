"""Makes the report of a directory, or of one checkpoint, from manifests and history."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog, lease, own
from marlin_ckpt.directory.history import reading
from marlin_ckpt.directory.history.events import Event, Removed, Saved, SaveFailed, now
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.keep import RetentionArguments
from marlin_ckpt.operations.report import banners, best, finding, keeping, merging, sizes, starts
from marlin_ckpt.operations.report.course import Happening, Point
from marlin_ckpt.operations.report.values import Report, Totals
from marlin_ckpt.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of a report.

    Attributes:
        prefix: only checkpoints of this prefix; None: of all.
        extension: only files of this extension, without its dot; None: of all usual ones.
        recursive: sub-directories too.
        rules: of retention; None: those of each run's last start.
    """

    prefix: str | None = None
    extension: str | None = None
    recursive: bool = False
    rules: RetentionArguments | None = None


def gather(path: str, wanted: Wanted | None = None) -> Report:
    """The report of a directory, or of one checkpoint. No tensor is read.

    Args:
        path: of it.
        wanted: what is asked for; of one checkpoint only `rules`, which are not applied, could differ.

    Raises:
        CheckpointNotFoundError: there is nothing of this name.
        StorageError: it cannot be read.
    """
    wanted = wanted or Wanted()
    itself = catalog.entry(path)
    layout = itself and layouts.of(itself)
    if itself and not (layout and layout.is_flat):
        return _of_one(itself, path)
    if not os.path.isdir(path):
        raise CheckpointNotFoundError("no such file or directory", path)
    found = _inspected(path, finding.entries(path, wanted.prefix, wanted.extension, wanted.recursive))
    past = finding.history(path, wanted.recursive)
    events = [one for one in past.events if _is_wanted(one, wanted)]
    points = [finding.looked_for(path, one) for one in merging.merged(found, events)]
    rules = [keeping.Rules(wanted.rules, None, "options")] if wanted.rules else keeping.rules_of_runs(events)
    points, retention = keeping.kept(path, found, points, rules, recursive=wanted.recursive)
    runs = starts.runs(events, points, own.read(path, lease.HOLDER))
    report = Report(
        directory=path,
        made=now(),
        version=__version__,
        runs=runs,
        points=tuple(points),
        measured=starts.measured(events),
        happenings=starts.happenings(events, points),
        retention=retention,
        best=best.best(points, rules),
    )
    return _finished(report, found, past)


def _of_one(entry: Entry, path: str) -> Report:
    """The report of one checkpoint, with what the history beside it says of this one."""
    name = os.path.basename(os.path.normpath(path))
    found = [(name, inspect(entry))]
    past = reading.read(os.path.dirname(os.path.realpath(path)))
    about = [one for one in past.events if isinstance(one, (Saved, Removed)) and one.name == name]
    points = [one for one in merging.merged(found, about) if one.is_there]
    report = Report(
        directory=path,
        made=now(),
        version=__version__,
        is_directory=False,
        runs=starts.runs([one for one in past.events if one.run_id == points[0].run_id], points, {}),
        points=tuple(points),
        happenings=starts.happenings([], points),
    )
    return _finished(report, found, reading.Past())


def _finished(report: Report, found: Sequence[tuple[str, Inspection]], past: reading.Past) -> Report:
    """Adds what is known of the newest checkpoint, sums, and what to know first."""
    newest = _newest(report.points)
    by_name = dict(found)
    if newest is not None and (one := by_name.get(report.points[newest].name)):
        report = replace(report, newest=newest, sizes=sizes.sizes(one.entry.path, one.manifest))
    known = banners.Known(
        directory=report.directory,
        is_directory=report.is_directory,
        runs=report.runs,
        points=report.points,
        happenings=report.happenings,
        movement=report.movement,
        retention=report.retention,
        unread=past.unread,
        newer=past.newer,
    )
    totals = _totals(report.points, report.happenings)
    return replace(report, totals=totals, banners=banners.banners(known))


def _inspected(directory: str, entries: Iterable[Entry]) -> list[tuple[str, Inspection]]:
    return [(os.path.relpath(one.path, directory), inspect(one)) for one in entries]


def _is_wanted(event: Event, wanted: Wanted) -> bool:
    """Whether an event is about checkpoints that are asked for, or about none."""
    if not isinstance(event, (Saved, Removed, SaveFailed)):
        return True
    last = event.name.rpartition("/")[2]
    extension = naming.split_extension(last)[1]
    if wanted.extension and extension in naming.EXTENSIONS and extension != wanted.extension:
        return False
    if wanted.prefix is None:
        return True
    name = naming.parse(last, wanted.prefix, extension) or naming.folder_name(last)
    return name is not None and name.prefix == wanted.prefix


def _newest(points: Sequence[Point]) -> int | None:
    """The place of the newest checkpoint that is complete: of the run that saved last, its last one."""
    there = [(place, one) for place, one in enumerate(points) if one.is_there and one.complete is not False]
    of_state = [(place, one) for place, one in there if one.kind != "model"] or there
    last = max(of_state, key=lambda pair: (pair[1].at, pair[0]), default=None)
    if last is None:
        return None
    return max(place for place, one in of_state if one.run_id == last[1].run_id)


def _totals(points: Sequence[Point], happenings: Iterable[Happening]) -> Totals:
    there = [one for one in points if one.is_there]
    gone = [one for one in points if not one.is_there]
    return Totals(
        checkpoints=len(there),
        size_bytes=sum(one.size_bytes for one in there),
        removed=len(gone),
        freed_bytes=sum(one.size_bytes for one in gone),
        failed_saves=sum(one.kind == "save failed" for one in happenings),
        incomplete=sum(one.complete is False for one in there),
    )
