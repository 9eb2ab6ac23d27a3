"""Reads from the history when the runs of a directory started, what happened in them, and how they ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from marlin_ckpt.directory.history.events import (
    Ended,
    Event,
    Measured,
    Resumed,
    SaveFailed,
    Signalled,
    Started,
)
from marlin_ckpt.operations.history import lineage
from marlin_ckpt.operations.report.course import Happening, How, MeasuredPoint, Point, Run, Start


def runs(events: Iterable[Event], points: Sequence[Point], holder: Mapping[str, Any]) -> tuple[Run, ...]:
    """The runs of a directory, each with its processes.

    Args:
        events: the history.
        points: the checkpoints, run by run in order of the runs.
        holder: who has the lease of the directory, as its file says; {} where there is none.
    """
    events = list(events)
    found = {run.run_id: run.starts for run in lineage.runs_of(events, holder)}
    ids = dict.fromkeys([*(one.run_id for one in points), *(one for one in found if found[one])])
    return tuple(
        Run(run_id=run_id, starts=tuple(_start(one) for one in found.get(run_id, ()))) for run_id in ids
    )


def _start(known: lineage.Start) -> Start:
    began, resumed, ended = known.began, known.resumed, known.ended
    last = ended or (known.last if known.how == lineage.KILLED else None)
    start = Start(
        at=known.first.at,
        ended_at=last.at if last else None,
        how=known.how if known.how in get_args(How) else "unknown",  # type: ignore[arg-type]
        error=ended.error if ended else "",
        resumed_from=resumed.name if resumed else "",
        passed_over=dict(resumed.passed_over) if resumed else {},
    )
    if began is None:
        return start
    return replace(
        start,
        git_commit=began.git_commit,
        config_sha256=began.config_sha256,
        versions=dict(began.versions),
        world_size=began.world_size,
    )


def measured(events: Iterable[Event]) -> tuple[MeasuredPoint, ...]:
    """The metrics by epoch, in the order of the history."""
    return tuple(
        MeasuredPoint(run_id=one.run_id, epoch=one.epoch, step=one.step, at=one.at, metrics=dict(one.metrics))
        for one in events
        if isinstance(one, Measured)
    )


def happenings(events: Iterable[Event], points: Iterable[Point]) -> tuple[Happening, ...]:
    """What happened beside saves and removals, in the order of the history, and then what is damaged."""
    found = [_happening(one) for one in events]
    damaged = [
        Happening(
            kind="damaged", run_id=one.run_id, at=one.at, what=one.reason, name=one.name, index=one.index
        )
        for one in points
        if one.is_there and one.complete is False
    ]
    return (*(one for one in found if one is not None), *damaged)


def _happening(event: Event) -> Happening | None:
    happening = Happening(kind=event.kind, run_id=event.run_id, at=event.at)
    match event:
        case Started():
            return replace(happening, what=f"{event.world_size} ranks" if event.world_size > 1 else "")
        case Resumed():
            return replace(happening, what=f"from {event.name}", name=event.name, index=event.index)
        case SaveFailed():
            return replace(happening, what=event.error, name=event.name, index=event.index)
        case Signalled():
            return replace(happening, what=event.signal, step=None if event.step < 0 else event.step)
        case Ended():
            what = f"{event.how}: {event.error}" if event.error else event.how
            return replace(happening, what=what, step=event.step)
        case _:
            return None
