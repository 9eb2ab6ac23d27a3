"""The runs of a directory by its history: their starts, what these resumed from, and how they ended."""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from marlin_ckpt.directory.history.events import (
    BroughtBack,
    Ended,
    Event,
    Removed,
    Resumed,
    Saved,
    SaveFailed,
    Started,
)

KILLED, RUNNING, UNKNOWN = "killed", "running", "unknown"
_WRITES_ENDS = "Trainer"  # `Started.by`; of another loop no end is seen


@dataclass(slots=True)
class Start:
    """A process of a run, from its start to its end.

    Attributes:
        first: its first event, the `Started` unless the history has lost that.
        last: its last event.
        began: the event of its start; None where the history has none.
        resumed: what it took up; None where it began anew.
        ended: the event of its end; None where there is none.
        how: how it ended: `finished`, `stopped` or `failed`, as its end says; `killed` or `running` where a
            trainer of ours wrote no end; `unknown` where nothing says which, and of other loops.
        saves: how many checkpoints and model files it saved.
        failed_saves: how many saves failed.
    """

    first: Event
    last: Event
    began: Started | None = None
    resumed: Resumed | None = None
    ended: Ended | None = None
    how: str = UNKNOWN
    saves: int = 0
    failed_saves: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One training, however often it was stopped and resumed.

    Attributes:
        run_id: of the run; "" where events do not say it.
        starts: its processes, the first one first.
    """

    run_id: str
    starts: list[Start]


def runs_of(events: Iterable[Event], holder: Mapping[str, Any] | None = None) -> list[Run]:
    """The runs that events are of.

    Args:
        events: in the order in which they were written.
        holder: who has the lease of the directory, as its file says; {} where it says nobody, None where
            that was not looked up.

    Returns:
        the runs in order of their first events.
    """
    runs: dict[str, Run] = {}
    for event in events:
        if is_of_process(event):
            run = runs.get(event.run_id)
            if run is None:
                run = runs[event.run_id] = Run(event.run_id, [])
            _add(run.starts, event)
    for run_id, run in runs.items():
        if holder is not None and lacks_end(run.starts[-1]):
            run.starts[-1].how = _fate(run_id, holder)
    return list(runs.values())


def _fate(run_id: str, holder: Mapping[str, Any]) -> str:  # noqa: PLR0911 - a case each
    """What has become of a run that has written no end: a trainer holds the lease for as long as it lives."""
    if not holder or holder.get("run_id") not in ("", run_id):
        return KILLED
    pid = holder.get("pid")
    if holder.get("left_s"):  # in an object store, where it is renewed
        return RUNNING
    if holder.get("host") != socket.gethostname() or type(pid) is not int:
        return UNKNOWN
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return KILLED
    except PermissionError:  # somebody else's
        return RUNNING
    except (OSError, OverflowError):
        return UNKNOWN
    return RUNNING


def is_of_process(event: Event) -> bool:
    """Whether the run itself did it, and not a command that removed its checkpoints, or brought them back."""
    return bool(event.run_id) or not isinstance(event, (Removed, BroughtBack))


def lacks_end(start: Start) -> bool:
    """Whether a start should have an end and has none."""
    return start.ended is None and start.began is not None and start.began.by == _WRITES_ENDS


def _add(starts: list[Start], event: Event) -> None:
    """Adds an event to the start that it belongs to, which is the last one of its run."""
    if isinstance(event, Started):
        if starts and lacks_end(starts[-1]):
            starts[-1].how = KILLED
        starts.append(Start(event, event, began=event))
        return
    if not starts:
        starts.append(Start(event, event))
    start = starts[-1]
    start.last = event
    if isinstance(event, Saved):
        start.saves += 1
    elif isinstance(event, SaveFailed):
        start.failed_saves += 1
    elif isinstance(event, Resumed):
        start.resumed = event
    elif isinstance(event, Ended):
        start.ended, start.how = event, event.how
