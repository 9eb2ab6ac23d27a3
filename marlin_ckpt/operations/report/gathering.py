"""Makes the report of a directory, or of one checkpoint, from manifests and history."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog, lease
from marlin_ckpt.directory.history.events import Event, Removed, Saved, SaveFailed
from marlin_ckpt.entries import Entry
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.times import now
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.keep import RetentionArguments
from marlin_ckpt.operations.report import (
    banners,
    best,
    figures,
    finding,
    keeping,
    merging,
    movement,
    sizes,
    starts,
)
from marlin_ckpt.operations.report.course import Happening, Point
from marlin_ckpt.operations.report.figures import Progress
from marlin_ckpt.operations.report.values import Report, Totals
from marlin_ckpt.storage import paths, space
from marlin_ckpt.storage.space import Taken
from marlin_ckpt.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of a report.

    Attributes:
        prefix: only checkpoints of this prefix; None: of all.
        extension: only files of this extension, without its dot; None: of all usual ones.
        recursive: sub-directories too.
        rules: of retention; None: those of each run's last start.
        reads_tensors: the statistics and histograms that no file has are made from its tensors.
    """

    prefix: str | None = None
    extension: str | None = None
    recursive: bool = False
    rules: RetentionArguments | None = None
    reads_tensors: bool = False


def gather(
    path: str,
    wanted: Wanted | None = None,
    progress: Progress = lambda _: contextlib.nullcontext(lambda _: None),
    *,
    other: str | None = None,
) -> Report:
    """The report of a directory, or of one checkpoint.

    Args:
        path: of it.
        wanted: what is asked for.
        progress: given how many bytes will be read, makes what is called with the number that were; only
            with `reads_tensors`.
        other: a directory or checkpoint that it is compared with.

    Raises:
        CheckpointNotFoundError: there is nothing of this name.
        StorageError: it cannot be read.
    """
    report = _gather(path, wanted or Wanted(), progress)
    return report if other is None else replace(report, other=_gather(other, wanted or Wanted(), progress))


def _gather(path: str, wanted: Wanted, progress: Progress) -> Report:
    itself = catalog.entry(path)
    layout = itself and layouts.of(itself)
    if itself and not (layout and layout.is_flat):
        return _of_one(itself, path, wanted, progress)
    if not paths.is_folder(path):
        catalog.named([path], ())  # which says what is there instead
    found = finding.inspected(path, wanted.prefix, wanted.extension, recursive=wanted.recursive)
    history = finding.history(path, recursive=wanted.recursive)
    events = [one for one in history.past.events if _is_wanted(one, wanted)]
    known = _figures(path, found, wanted, progress)
    holds = paths.existing(path)
    points = [finding.looked_for(holds, one) for one in merging.merged(found, events)]
    points = [_with_damage(one, known) for one in points]
    rules = [keeping.Rules(wanted.rules, None, "options")] if wanted.rules else keeping.rules_of_runs(events)
    points, retention = keeping.kept(path, found, points, rules, recursive=wanted.recursive)
    report = Report(
        directory=path,
        made=now(),
        version=__version__,
        runs=starts.runs(events, points, lease.holder(path)),
        points=tuple(points),
        measured=starts.measured(events),
        happenings=starts.happenings(events, points),
        retention=retention,
        best=best.best(points, rules),
    )
    return _finished(report, dict(found), known, history, wanted)


def _of_one(entry: Entry, path: str, wanted: Wanted, progress: Progress) -> Report:
    """The report of one checkpoint, with what the history beside it says of this one."""
    name = os.path.basename(paths.real(path))
    found = [(name, inspect(entry))]
    directory = os.path.dirname(paths.real(path))
    past = finding.history(directory, recursive=False).past
    about = [one for one in past.events if isinstance(one, (Saved, Removed)) and one.name == name]
    known = _figures(None, found, wanted, progress)
    points = [_with_damage(one, known) for one in merging.merged(found, about) if one.is_there]
    of_run = [one for one in past.events if one.run_id == points[0].run_id]
    report = Report(
        directory=path,
        made=now(),
        version=__version__,
        is_directory=False,
        runs=starts.runs(of_run, points, lease.holder(directory)),
        points=tuple(points),
        happenings=starts.happenings([], points),
    )
    return _finished(report, dict(found), known, finding.Known(), wanted)


def _figures(
    directory: str | None, found: figures.Found, wanted: Wanted, progress: Progress
) -> figures.Figures:
    known = figures.saved(found)
    if directory is not None:
        figures.add_kept(known, directory, found)
    if wanted.reads_tensors:
        figures.add_read(known, directory, found, progress)
    return known


def _with_damage(point: Point, known: figures.Figures) -> Point:
    """A point whose data was read, and is damaged."""
    why = known.damaged.get(point.name)
    return replace(point, complete=False, reason=why) if why and point.is_there else point


def _finished(
    report: Report,
    found: Mapping[str, Inspection],
    known: figures.Figures,
    history: finding.Known,
    wanted: Wanted,
) -> Report:
    """Adds what is known of the newest checkpoint, what moved, sums, and what to know first."""
    taken = {name: its for name, each in found.items() if (its := space.taken(each.entry))}
    points = tuple(_with_own_bytes(point, taken.get(point.name)) for point in report.points)
    report = replace(report, points=points)
    newest = _newest(report.points)
    one = None if newest is None else found.get(report.points[newest].name)
    if one is not None:
        report = replace(report, newest=newest, sizes=sizes.sizes(one.entry.path, one.manifest))
        if wanted.reads_tensors:
            report = replace(report, histograms=figures.histograms(one.entry.path))
    elements = {each.name: math.prod(each.shape) for each in report.sizes if each.group == "module"}
    report = replace(
        report,
        movement=movement.movement(report.points, known, elements),
        totals=_totals(report.points, report.happenings, taken),
    )
    return replace(report, banners=banners.banners(banners.Known(report, history)))


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
    of_state = [(place, one) for place, one in there if one.is_state] or there
    last = max(of_state, key=lambda pair: (pair[1].at, pair[0]), default=None)
    if last is None:
        return None
    return max(place for place, one in of_state if one.run_id == last[1].run_id)


def _with_own_bytes(point: Point, taken: Taken | None) -> Point:
    return replace(point, own_bytes=taken.own_bytes) if taken and point.is_there else point


def _totals(points: Sequence[Point], happenings: Iterable[Happening], taken: Mapping[str, Taken]) -> Totals:
    there = [one for one in points if one.is_there]
    known = [taken[one.name] for one in there if one.name in taken]
    gone = [one for one in points if not one.is_there]
    return Totals(
        checkpoints=sum(one.is_state for one in there),
        other_files=sum(not one.is_state for one in there),
        size_bytes=sum(one.size_bytes for one in there),
        disk_bytes=space.together_bytes(known) if known and len(known) == len(there) else None,
        removed=len(gone),
        freed_bytes=sum(one.size_bytes for one in gone),
        failed_saves=sum(one.kind == "save failed" for one in happenings),
        incomplete=sum(one.complete is False for one in there),
    )
