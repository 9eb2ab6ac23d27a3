"""Reads from the history when the runs of a directory started, what happened in them, and how they ended."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from marlin_ckpt.directory.history.events import (
    Ended,
    Event,
    Measured,
    Resumed,
    SaveFailed,
    Signalled,
    Started,
)
from marlin_ckpt.operations.report.course import Happening, How, MeasuredPoint, Point, Run, Start


def runs(events: Iterable[Event], points: Sequence[Point], holder: Mapping[str, Any]) -> tuple[Run, ...]:
    """The runs of a directory, each with its processes.

    Args:
        events: the history.
        points: the checkpoints, run by run in order of the runs.
        holder: who has the lease of the directory, as its file says; {} where there is none.
    """
    starts: dict[str, list[Start]] = defaultdict(list)
    seen: dict[str, str] = {}  # when a run wrote last
    for event in events:
        of_run = starts[event.run_id]
        open_ = bool(of_run) and of_run[-1].how == "unknown"
        if isinstance(event, Started):
            if open_:
                of_run[-1] = replace(of_run[-1], how="killed", ended_at=seen[event.run_id])
            of_run.append(_start(event))
        elif isinstance(event, Resumed):
            if not open_ or of_run[-1].resumed_from:
                of_run.append(Start(at=event.at))
            of_run[-1] = replace(of_run[-1], resumed_from=event.name, passed_over=dict(event.passed_over))
        elif isinstance(event, Ended) and open_:
            of_run[-1] = replace(of_run[-1], how=_how(event.how), ended_at=event.at, error=event.error)
        seen[event.run_id] = event.at
    ids = dict.fromkeys([*(one.run_id for one in points), *(run_id for run_id in starts if starts[run_id])])
    for run_id in ids:
        if starts[run_id] and starts[run_id][-1].how == "unknown":
            starts[run_id][-1] = _last(run_id, starts[run_id][-1], seen[run_id], holder)
    return tuple(Run(run_id=one, starts=tuple(starts[one])) for one in ids)


def _start(event: Started) -> Start:
    return Start(
        at=event.at,
        git_commit=event.git_commit,
        config_sha256=event.config_sha256,
        versions=dict(event.versions),
        world_size=event.world_size,
    )


def _how(text: str) -> How:
    return text if text in ("finished", "stopped", "failed") else "unknown"  # type: ignore[return-value]


def _last(run_id: str, start: Start, seen: str, holder: Mapping[str, Any]) -> Start:
    """The last process of a run, which has written no end: it runs, was killed, or nothing says which."""
    if not holder or holder.get("run_id") not in ("", run_id):
        return replace(start, how="killed", ended_at=seen)
    if holder.get("host") != socket.gethostname() or type(holder.get("pid")) is not int:
        return start
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return replace(start, how="killed", ended_at=seen)
    except (OSError, OverflowError, ValueError):
        pass  # it is somebody else's
    return replace(start, how="running")


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
    told = Happening(kind=event.kind, run_id=event.run_id, at=event.at)
    match event:
        case Started():
            return replace(told, what=f"{event.world_size} ranks" if event.world_size > 1 else "")
        case Resumed():
            return replace(told, what=f"from {event.name}", name=event.name, index=event.index)
        case SaveFailed():
            return replace(told, what=event.error, name=event.name, index=event.index)
        case Signalled():
            return replace(told, what=event.signal, step=None if event.step < 0 else event.step)
        case Ended():
            what = f"{event.how}: {event.error}" if event.error else event.how
            return replace(told, what=what, step=event.step)
        case _:
            return None
