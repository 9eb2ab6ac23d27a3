"""The runs of a directory by its history: their starts, what these resumed from, and how they ended."""

from collections.abc import Iterable
from dataclasses import dataclass

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

KILLED, UNKNOWN = "killed", "unknown"
_OF_A_RUN = "keep"  # what removes in the process of the run itself


@dataclass(slots=True)
class Start:
    """A process of a run, from its start to its end.

    Attributes:
        first: its first event, the `Started` unless the history has lost that.
        last: its last event.
        began: the event of its start; None where the history has none.
        resumed: what it took up; None where it began anew.
        ended: the event of its end; None where there is none.
        how: how it ended: `finished`, `stopped` or `failed`, as its end says; `killed` where it has no end
            and the run was started again; `unknown` where it has no end yet: it runs, or was killed.
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
        starts: its processes, the first one first; none where all that is known is that its checkpoints were
            removed.
    """

    run_id: str
    starts: list[Start]


def runs_of(events: Iterable[Event]) -> list[Run]:
    """The runs that events are of.

    Args:
        events: in the order in which they were written.

    Returns:
        the runs in order of their first events.
    """
    runs: dict[str, Run] = {}
    for event in events:
        run = runs.get(event.run_id)
        if run is None:
            run = runs[event.run_id] = Run(event.run_id, [])
        _add(run.starts, event)
    return list(runs.values())


def is_of_process(event: Event) -> bool:
    """Whether the run itself did it, and not a command that removed its checkpoints."""
    if isinstance(event, Removed):
        return event.by == _OF_A_RUN
    return not isinstance(event, BroughtBack)


def _add(starts: list[Start], event: Event) -> None:
    """Adds an event to the start that it belongs to, which is the last one of its run."""
    if isinstance(event, Started):
        if starts and starts[-1].ended is None:
            starts[-1].how = KILLED
        starts.append(Start(event, event, began=event))
        return
    if not is_of_process(event):
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
