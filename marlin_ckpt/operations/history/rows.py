"""The lines that `log` prints: the events of a history, and what follows from several of them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from marlin_ckpt.directory.history.events import BroughtBack, Ended, Event, Measured, Removed, Saved, Started
from marlin_ckpt.operations.history.lineage import Start, lacks_end


@dataclass(frozen=True, slots=True, kw_only=True)
class Unended(Event):
    """A start of a run has no end, and the run was started again: it was killed. No history has it as a line.

    Attributes:
        since: when its last event was written.
    """

    kind: ClassVar[str] = "killed"

    since: str = ""


_MANY = (Measured, Saved, Removed, BroughtBack)


class Row(NamedTuple):
    """One line.

    Attributes:
        event: what it says.
        run_id: of the run that it is about: of a checkpoint that a command removed, the one that saved it.
        before: of a start, the start of the same run before it; else None.
        is_gone: of a save, whether the directory no longer has the checkpoint, and no event says why.
    """

    event: Event
    run_id: str
    before: Started | None = None
    is_gone: bool = False


def rows_of(events: Sequence[Event], holds: Callable[[str], bool]) -> list[Row]:
    """The lines of a history, the oldest first.

    Args:
        events: in the order in which they were written.
        holds: whether the directory has something of a name.
    """
    rows: list[Row] = []
    starts: dict[str, Start] = {}  # by run, the last one
    for event in events:
        run_id, before = event.run_id, None
        if isinstance(event, Started):
            last, starts[run_id] = starts.get(run_id), Start(event, event, began=event)
            if last is not None:
                before = last.began
                if lacks_end(last):
                    rows.append(Row(Unended(run_id=run_id, at=event.at, since=last.last.at), run_id))
        elif run_id in starts:
            starts[run_id].last = event
            if isinstance(event, Ended):
                starts[run_id].ended = event
        rows.append(Row(event, run_id, before))
    _look_for_checkpoints(rows, holds)
    return rows


def _look_for_checkpoints(rows: list[Row], holds: Callable[[str], bool]) -> None:
    """Marks the saves whose checkpoints are gone, and gives removals by commands to the runs that saved."""
    saved: dict[str, int] = {}  # by name, the place of the last save
    removed: dict[str, int] = {}
    for place, row in enumerate(rows):
        event = row.event
        if isinstance(event, Saved):
            saved[event.name] = place
            continue
        if not isinstance(event, (Removed, BroughtBack)):
            continue
        there, gone = (saved, removed) if isinstance(event, Removed) else (removed, saved)
        if event.name in there:
            gone[event.name] = there.pop(event.name)
            if not row.run_id:
                rows[place] = row._replace(run_id=rows[gone[event.name]].run_id)
    for name, place in saved.items():
        if not holds(name):
            rows[place] = rows[place]._replace(is_gone=True)


def choose(
    rows: Sequence[Row],
    *,
    run_id: str | None = None,
    brief: bool = False,
    since_s: float | None = None,
    last: int | None = None,
) -> list[Row]:
    """Chooses lines.

    Args:
        rows: the oldest first.
        run_id: only those of this run.
        brief: without metrics, saves and removals, of which there are many.
        since_s: only those that were written then or later, in seconds since 1970.
        last: only so many, the last ones.
    """
    chosen = [
        row
        for row in rows
        if run_id in (None, row.run_id)
        and not (brief and isinstance(row.event, _MANY))
        and (since_s is None or (row.event.at_s() or 0.0) >= since_s)
    ]
    return chosen if last is None else chosen[max(0, len(chosen) - last) :]


def short_ids(run_ids: Collection[str], least: int = 6) -> dict[str, str]:
    """Beginnings of the runs' ids that are long enough to be different.

    Args:
        run_ids: all of them.
        least: how many characters each has at least.

    Returns:
        them by the ids.
    """
    ordered = sorted(run_ids)
    found = {}
    for place, run_id in enumerate(ordered):
        beside = [*ordered[max(0, place - 1) : place], *ordered[place + 1 : place + 2]]
        found[run_id] = run_id[: max(least, *(_same(run_id, other) + 1 for other in beside), 0)]
    return found


def _same(one: str, other: str) -> int:
    """How many characters two texts begin with that are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
