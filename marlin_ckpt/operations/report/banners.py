"""What a reader of a report should know first, each with the command to type next."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from marlin_ckpt.fields import size_text
from marlin_ckpt.operations.report.course import Point
from marlin_ckpt.operations.report.finding import Known as History
from marlin_ckpt.operations.report.values import Banner, Movement, Report
from marlin_ckpt.operations.rescue.remedies import salvage_command
from marlin_ckpt.storage.local.mounts import free_bytes
from marlin_ckpt.storage.paths import real
from marlin_ckpt.urls import is_url

_MOST = 5  # of one kind
_SEVERITIES = ("bad", "warn", "note")
_FEW_LETTERS = 12  # of a run's id


@dataclass(frozen=True, slots=True)
class Known:
    """What banners are made from.

    Attributes:
        report: all but they.
        history: how much of it could be read.
    """

    report: Report
    history: History

    def path(self, name: str) -> str:
        """Where a checkpoint is, for a shell."""
        return shlex.quote(self.place(name))

    def place(self, name: str) -> str:
        """Where a checkpoint is, as a command takes it."""
        path = self.report.directory
        if self.report.is_directory:
            path = os.path.join(path, name)
            path = path if is_url(path) else os.path.normpath(path)
        elif name != self.report.points[0].name:
            path = os.path.join(os.path.dirname(real(path)), name)
        return _no_option(path)

    @property
    def quoted(self) -> str:
        """What the report is of, for a shell."""
        return shlex.quote(_no_option(self.report.directory))

    @property
    def directory(self) -> str:
        """The directory of the checkpoints, for a shell."""
        path = self.report.directory
        is_directory = self.report.is_directory
        return self.quoted if is_directory else shlex.quote(os.path.dirname(real(path)))

    def of(self, run_id: str) -> str:
        """A run in words, where there are several."""
        several = len(self.report.runs) > 1 and run_id
        return f" of run {run_id[:_FEW_LETTERS]}" if several else ""


def _no_option(path: str) -> str:
    return os.path.join(os.curdir, path) if path.startswith("-") else path


def banners(known: Known) -> tuple[Banner, ...]:
    """What to know, the worst first."""
    kinds = (_damage, _values, _metrics, _failed_saves, _ends, _passed_over, _space, _missing, _limits)
    found = [one for kind in kinds for one in kind(known)]
    return tuple(sorted(found, key=lambda one: _SEVERITIES.index(one.severity)))


def _damage(known: Known) -> Iterator[Banner]:
    bad = [one for one in known.report.points if one.is_there and one.complete is False]
    for one in bad[:_MOST]:
        hint = salvage_command(known.place(one.name)) or f"marlin-ckpt verify {known.path(one.name)}"
        yield Banner(severity="bad", what=f"{one.name} is not whole: {one.reason}.", hint=hint)
    if bad[_MOST:]:
        hint = f"marlin-ckpt verify {known.quoted}"
        yield Banner(severity="bad", what=f"Not whole either: {len(bad) - _MOST:,} more.", hint=hint)


def _values(known: Known) -> Iterator[Banner]:
    """NaN and Inf in tensors: since which checkpoint, where, and the last one without."""
    moved = known.report.movement
    if moved is None:
        return
    runs: dict[str, list[int]] = {}
    for column, place in enumerate(moved.columns):
        runs.setdefault(known.report.points[place].run_id, []).append(column)
    not_finite = _not_finite(moved)
    for run_id, columns in runs.items():
        bad = {column: not_finite[column] for column in columns if column in not_finite}
        if columns[-1] not in bad:
            if bad:
                last = known.report.points[moved.columns[max(bad)]]
                what = f"NaN or Inf was in {last.name}{known.of(run_id)}, and in none since."
                yield Banner(severity="note", what=what, hint=f"marlin-ckpt show {known.path(last.name)}")
            continue
        good = [column for column in columns if column not in bad]
        since = next(column for column in columns if not good or column > good[-1])
        first, names = known.report.points[moved.columns[since]], bad[since]
        what = f"NaN or Inf{known.of(run_id)} since {first.name}, in {_some(names)}. "
        what += (
            f"The last checkpoint without is {known.report.points[moved.columns[good[-1]]].name}."
            if good
            else "No checkpoint is without."
        )
        hint = f"marlin-ckpt show {known.path(first.name)} --stats {shlex.quote('*' + names[0])}"
        yield Banner(severity="bad", what=what, hint=hint)


def _not_finite(moved: Movement) -> dict[int, list[str]]:
    """The tensors that have NaN or Inf, by the column, where there are any."""
    found: dict[int, list[str]] = {}
    for name, *counts in zip(moved.tensors, moved.nans, moved.infinities, strict=True):
        if not any(map(any, counts)):  # as of most tensors
            continue
        for column, (nans, infinities) in enumerate(zip(*counts, strict=True)):
            if nans or infinities:
                found.setdefault(column, []).append(name)
    return found


def _metrics(known: Known) -> Iterator[Banner]:
    """Metrics that are NaN or infinite in the newest checkpoints of a run."""
    moved = known.report.movement
    bad_columns = _not_finite(moved) if moved else {}
    bad_states = {known.report.points[moved.columns[n]].name for n in bad_columns} if moved else set()
    for run in known.report.runs:
        points = [one for one in known.report.points if one.run_id == run.run_id and one.metrics]
        bad = [one for one in points if _bad_metrics(one)]
        if not bad or bad[-1] is not points[-1]:
            continue
        good = [place for place, one in enumerate(points) if not _bad_metrics(one)]
        first = points[good[-1] + 1 if good else 0]
        what = f"Not finite{known.of(run.run_id)} since {first.name}: {_some(_bad_metrics(first))}. "
        # A loss is often NaN only in the epoch after that in which the weights were.
        left = [points[n] for n in good if points[n].is_there and points[n].name not in bad_states]
        what += f"The last checkpoint without is {left[-1].name}." if left else "None without is left."
        hint = f"marlin-ckpt show {known.path(left[-1].name)}" if left else ""
        yield Banner(severity="bad", what=what, hint=hint)


def _bad_metrics(point: Point) -> list[str]:
    return [name for name, value in point.metrics.items() if not math.isfinite(value)]


def _failed_saves(known: Known) -> Iterator[Banner]:
    failed = [one for one in known.report.happenings if one.kind == "save failed"]
    if failed:
        last = failed[-1]
        is_or_are = "1 save failed" if len(failed) == 1 else f"{len(failed)} saves failed, the last"
        what = f"{is_or_are} at {last.at}, of {last.name or 'a checkpoint'}: {last.what}."
        yield Banner(severity="warn", what=what, hint=f"marlin-ckpt log {known.directory}")


def _ends(known: Known) -> Iterator[Banner]:
    for run in known.report.runs:
        last = run.starts[-1] if run.starts else None
        if last is not None and last.how in ("failed", "killed"):
            how = "was killed" if last.how == "killed" else f"failed: {last.error or 'no error is known'}"
            what = f"The last start{known.of(run.run_id)} {how}."
            yield Banner(severity="warn", what=what, hint=f"marlin-ckpt latest {known.directory} --intact")


def _passed_over(known: Known) -> Iterator[Banner]:
    for run in known.report.runs:
        last = run.starts[-1] if run.starts else None
        for name, reason in list(last.passed_over.items())[:_MOST] if last else ():
            what = f"The last start{known.of(run.run_id)} passed over {name}: {reason}."
            yield Banner(severity="warn", what=what, hint=f"marlin-ckpt verify {known.path(name)}")


def _space(known: Known) -> Iterator[Banner]:
    for one in known.report.retention:
        if one.removed:
            which = f"The rules{known.of(one.run_id)} ({one.rules})"
            what = f"{which} would remove {one.removed} of {one.removed + one.kept} checkpoints"
            what += f" and free {size_text(one.removed_bytes)}."
            hint = f"marlin-ckpt clean {known.directory} {one.options} --dry-run"
            yield Banner(severity="note", what=what, hint=hint)
    there = [one for one in known.report.points if one.is_there]
    directory = known.report.directory
    free = None if is_url(directory) else free_bytes(directory)
    if there and free is not None and free < (needed := max(one.size_bytes for one in there[-2:])):
        what = f"The disk has {size_text(free)} free; the newest checkpoints take {size_text(needed)} each."
        hint = f"marlin-ckpt clean {known.directory} --keep-last 3 --dry-run"
        yield Banner(severity="warn", what=what, hint=hint)


def _missing(known: Known) -> Iterator[Banner]:
    gone = [one for one in known.report.points if not one.is_there and not one.removed_by]
    if gone:
        what = f"{_count(gone)} gone, and the history does not say why; the last is {gone[-1].name}."
        yield Banner(severity="note", what=what)


def _limits(known: Known) -> Iterator[Banner]:
    """What the report does not know."""
    if any(one.is_there for one in known.report.points):
        what = "A report does not check every byte: only verify says whether a checkpoint is intact."
        yield Banner(severity="note", what=what, hint=f"marlin-ckpt verify {known.quoted}")
    if known.report.movement is None or known.report.movement.missing:
        missing = known.report.movement.missing if known.report.movement else 0
        where = f" of {missing:,} checkpoint{'s' * (missing > 1)}" if missing else ""
        hint = f"marlin-ckpt report {known.quoted} --stats"
        what = f"Statistics of tensors{where} are missing: --stats computes them, and a run with "
        what += "checkpointer.statistics saves them."
        yield Banner(severity="note", what=what, hint=hint)
    past = known.history.past
    for fault in known.history.faults:
        yield Banner(severity="warn", what=f"What was removed or failed is not known: {fault}.")
    if past.unread:
        yield Banner(severity="note", what=f"Lines of the history that cannot be read: {past.unread:,}.")
    if past.newer:
        what = f"Lines of the history that only a newer marlin-ckpt reads: {past.newer:,}."
        yield Banner(severity="note", what=what)


def _count(points: Sequence[Point]) -> str:
    return "1 checkpoint is" if len(points) == 1 else f"{len(points)} checkpoints are"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if listed[3:] else ""
    return ", ".join(listed[:3]) + more
