"""Puts what the history says of checkpoints together with those that are in the directory."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from marlin_ckpt.directory.history.events import BroughtBack, Event, Removed, Saved
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.times import iso
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.naming import Kind
from marlin_ckpt.operations.report.course import Point

_Save = tuple[str, int, str]  # the run, the number of the save, the kind


@dataclass(slots=True)
class _Draft:
    """One checkpoint, as far as it is known.

    Attributes:
        name: relative to the directory.
        saved: the event of its save.
        removed: that of its removal.
        replaced: the save that took its name.
        found: what the directory has of it.
    """

    name: str
    saved: Saved | None = None
    removed: Removed | None = None
    replaced: Saved | None = None
    found: Inspection | None = None

    @property
    def _manifest(self) -> Manifest | None:
        return None if self.found is None else self.found.manifest

    @property
    def run_id(self) -> str:
        recorded = self.saved or self.removed
        return self._manifest.run_id if self._manifest else recorded.run_id if recorded else ""

    @property
    def save_number(self) -> int:
        recorded = self.saved.save_number if self.saved else 0
        return self._manifest.save_number if self._manifest else recorded

    @property
    def is_gone(self) -> bool:
        return self.removed is not None or self.replaced is not None

    def written_s(self) -> float:
        if self.found is not None:
            return self.found.written_s
        recorded = self.saved or self.removed
        return (recorded.at_s() if recorded else None) or 0.0

    def is_of(self, manifest: Manifest | None) -> bool:
        """Whether a file of this name, with this manifest, is what was saved."""
        if manifest is None or self.saved is None:
            return True
        number = self.saved.save_number
        return self.saved.run_id == manifest.run_id and number in (0, manifest.save_number)


def merged(found: Sequence[tuple[str, Inspection]], events: Iterable[Event]) -> list[Point]:
    """One point for each checkpoint that is or was.

    Args:
        found: what the directory has, each with its name relative to it.
        events: its history.

    Returns:
        the points, run by run, in order of save. Saves of one run that have the same number, as after a
        resume from an earlier one, are points of their own.
    """
    events = list(events)
    recorded = _recorded(events)
    others = _attach(recorded, found)
    runs: dict[str, list[_Draft]] = defaultdict(list)
    for one in recorded:
        runs[one.run_id].append(one)
    alone: dict[str, list[_Draft]] = defaultdict(list)
    for one in others:
        alone[one.run_id].append(one)
    order = order_of_runs(
        [(one.run_id, one.at_s()) for one in events], [(one.run_id, one.written_s()) for one in others]
    )
    return [_point(one) for run_id in order for one in _in_order(runs[run_id], alone[run_id])]


def order_of_runs(
    recorded: Iterable[tuple[str, float | None]], found: Iterable[tuple[str, float]]
) -> list[str]:
    """The runs, the first one first.

    Args:
        recorded: the run and time of each event, in the order of the history, which does not change where a
            clock is set back.
        found: the run and time of each checkpoint that has no event.
    """
    latest, first = float("-inf"), dict[str, float]()
    for run_id, at_s in recorded:
        latest = max(latest, at_s if at_s is not None else latest)
        first.setdefault(run_id, latest)
    alone = dict[str, float]()
    for run_id, at_s in found:
        if run_id not in first:
            alone[run_id] = min(at_s, alone.get(run_id, at_s))
    times = first | alone
    return sorted(times, key=lambda run_id: times[run_id])


def _recorded(events: Iterable[Event]) -> list[_Draft]:
    """What the history says, in its order."""
    drafts: list[_Draft] = []
    current: dict[str, _Draft] = {}
    last: dict[str, _Draft] = {}
    for event in events:
        if isinstance(event, Saved):
            if before := current.get(event.name):
                before.replaced = event
            current[event.name] = _Draft(event.name, event)
            drafts.append(current[event.name])
            last[event.name] = current[event.name]
        elif isinstance(event, Removed):
            one = current.pop(event.name, None)
            if one is None:  # it was saved before there was a history
                one = _Draft(event.name)
                drafts.append(one)
                last[event.name] = one
            one.removed = event
        elif isinstance(event, BroughtBack) and event.name in last:
            current[event.name] = one = last[event.name]
            one.removed = None
    return drafts


def _attach(recorded: Sequence[_Draft], found: Iterable[tuple[str, Inspection]]) -> list[_Draft]:
    """Gives the drafts what the directory has of them; returns drafts of what the history does not know."""
    by_name = {one.name: one for one in recorded}  # the last one that had it
    by_save: dict[_Save, _Draft] = {}
    for one in recorded:
        if one.saved is not None and one.saved.save_number:
            kind = Kind.MODEL if one.saved.is_model else Kind.CHECKPOINT
            by_save[one.saved.run_id, one.saved.save_number, kind] = one
    others, moved = [], []
    for name, inspection in found:
        draft = by_name.get(name)
        if draft is not None and draft.is_of(inspection.manifest):
            draft.found, draft.removed, draft.replaced = inspection, None, None  # it may be back
        else:
            moved.append((name, inspection))
    for name, inspection in moved:
        about = inspection.manifest
        draft = by_save.get((about.run_id, about.save_number, about.kind)) if about else None
        if draft is not None and draft.found is None and not draft.is_gone:
            draft.name, draft.found = name, inspection
        else:
            others.append(_Draft(name, found=inspection))
    return others


def _in_order(recorded: Sequence[_Draft], others: Iterable[_Draft]) -> list[_Draft]:
    """The drafts of one run: those of the history in its order, the others by number, or by time."""
    stretches, times = _stretches(recorded), _greatest(one.written_s() for one in recorded)
    placed: dict[int, list[_Draft]] = defaultdict(list)
    for one in sorted(others, key=_order):
        placed[_place(one, recorded, stretches, times)].append(one)
    ordered = []
    for place in range(len(recorded) + 1):
        ordered += [*placed.get(place, ()), *recorded[place : place + 1]]
    return ordered


def _stretches(recorded: Iterable[_Draft]) -> list[tuple[int, list[int]]]:
    """Stretches in which the numbers rise, as from one resume to the next: where each begins, its numbers."""
    found: list[tuple[int, list[int]]] = []
    for place, one in enumerate(recorded):
        if not found or 0 < one.save_number <= found[-1][1][-1]:
            found.append((place, [one.save_number]))
        else:
            found[-1][1].append(max(one.save_number, found[-1][1][-1]))
    return found


def _place(
    one: _Draft,
    recorded: Sequence[_Draft],
    stretches: Iterable[tuple[int, list[int]]],
    times: Sequence[float],
) -> int:
    """Where a file whose save is not in the history stands among those that are.

    Its number says so where a stretch lacks that number: of several such the one that had begun when the
    file was written. Where each has a save of that number, this is a copy of one, or its run was resumed.
    """
    number, written_s = one.save_number, one.written_s()
    lacking = [
        (begin, bisect.bisect_right(numbers, number))
        for begin, numbers in stretches
        if number and numbers[-1] and number not in numbers
    ]
    if lacking:
        begun = [two for two in lacking if recorded[two[0]].written_s() <= written_s]
        return sum(begun[-1] if begun else lacking[0])
    copied = (
        place + 1
        for place, other in enumerate(recorded)
        if number and (other.save_number, other.written_s()) == (number, written_s)
    )
    return next(copied, bisect.bisect_right(times, written_s))


def _greatest(values: Iterable[float]) -> list[float]:
    """Of each value the greatest so far."""
    greatest: list[float] = []
    for one in values:
        greatest.append(max(one, greatest[-1]) if greatest else one)
    return greatest


def _order(one: _Draft) -> tuple[object, ...]:
    index = one.found.entry.index if one.found else None
    if one.save_number:
        return (False, one.save_number, one.written_s(), one.name)
    # What another tool wrote: a copy has other times, so the names come first.
    return (True, index is None, index or 0, one.written_s(), one.name)


def _point(one: _Draft) -> Point:
    saved, found, removed = one.saved, one.found, one.removed
    point = _of_file(one.name, found) if found else _of_event(one)
    if saved is not None:
        point |= {
            "step": None if saved.step < 0 else saved.step,
            **{name: _finite(getattr(saved, name)) for name in ("stall_s", "copy_s", "write_s", "sync_s")},
        }
        point["metrics"] = point["metrics"] or dict(saved.metrics)
        point["run_id"] = point["run_id"] or saved.run_id
        point["at"] = (found and found.manifest and found.manifest.created) or saved.at or point["at"]
    if removed is not None:
        point |= {"removed_by": removed.by, "removed_reason": removed.reason, "removed_at": removed.at}
    elif one.replaced is not None:
        why = f"save {one.replaced.save_number} took its name"
        point |= {"removed_by": "save", "removed_reason": why, "removed_at": one.replaced.at}
    return Point(**point)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _of_file(name: str, found: Inspection) -> dict[str, Any]:
    about = found.manifest
    return {
        "run_id": about.run_id if about else "",
        "name": name,
        "kind": found.entry.layout if layouts.is_foreign(found.entry) else str(found.kind),
        "index": found.entry.index if about is None else about.index,
        "save_number": about.save_number if about else 0,
        "at": about.created if about else iso(found.entry.modified_ns / 1e9),
        "size_bytes": found.entry.size_bytes,
        "complete": found.complete,
        "reason": found.reason,
        "metrics": dict(found.metrics),
    }


def _of_event(one: _Draft) -> dict[str, Any]:
    saved, removed = one.saved, one.removed
    if saved is not None:
        index, size_bytes, kind = saved.index, saved.size_bytes, "model" if saved.is_model else "checkpoint"
    else:
        assert removed is not None
        index, size_bytes, kind = removed.index, removed.size_bytes, "other"
    return {
        "run_id": one.run_id,
        "name": one.name,
        "kind": kind,
        "index": None if index < 0 else index,
        "save_number": one.save_number,
        "size_bytes": size_bytes,
        "is_there": False,
        "metrics": {},
        "at": saved.at if saved else "",
    }
