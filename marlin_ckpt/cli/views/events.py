"""What a line on an event says, for people."""

import datetime
import functools
from collections.abc import Callable
from typing import Any

from marlin_ckpt.cli.text import count, duration, metrics, size
from marlin_ckpt.directory.history.events import (
    BroughtBack,
    Ended,
    Event,
    Measured,
    Removed,
    Resumed,
    Saved,
    SaveFailed,
    Signalled,
    Started,
)
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations.history.rows import Row, Unended

GLUE = "\u00a0"  # in the place of a blank at which no line is broken; what is escaped has none
NameOf = Callable[[str], str]
_Words = tuple[str, str]

_COMMIT = 7  # characters, as git has them
_ISO_LENGTH = len("2026-11-27T12:00:00.000Z")


def words(row: Row, name_of: NameOf) -> _Words:
    """What a row says: what happened, in a word or two, and the rest of the line, with `GLUE` in it.

    Args:
        row: the row.
        name_of: makes the name of a checkpoint harmless, and perhaps short.
    """
    kind = _KINDS.get(type(row.event))
    return (escape(row.event.kind), "") if kind is None else kind(row.event, row, name_of)


def when(at: str) -> str:
    """The time of an event in this machine's zone, to the second: 2026-11-27 12:00:00."""
    if len(at) == _ISO_LENGTH and at.endswith("Z"):
        minute, seconds = _local_minute(at[:16]), at[16:19]
        if minute and seconds[1:].isdecimal():
            return minute + seconds
    return escape(at)


@functools.lru_cache(maxsize=4096)
def _local_minute(text: str) -> str:
    """A minute in UTC, such as 2026-11-27T12:00, in this machine's zone; "" where it is none."""
    try:
        utc = datetime.datetime.fromisoformat(f"{text}+00:00")
        return utc.astimezone().isoformat(" ", "minutes")[:16]
    except (ValueError, OverflowError):
        return ""


def _saved(event: Saved, row: Row, name_of: NameOf) -> _Words:
    written = duration(event.write_s + event.sync_s)
    costs = size(event.size_bytes), f"stall {duration(event.stall_s)}", f"{written} to write"
    how = f"({', '.join([one.replace(' ', GLUE) for one in costs])})"
    gone = "; it is no longer there" if row.is_gone else ""
    return "saved", f"{name_of(event.name)} {how}{gone}{_metrics(event)}"


def _measured(event: Measured, _row: Row, _name_of: NameOf) -> _Words:
    return f"epoch {event.epoch},", f"step {event.step}{_metrics(event)}"


def _removed(event: Removed, _row: Row, name_of: NameOf) -> _Words:
    by = "" if event.by == "keep" else f"{escape(event.by)} "
    return f"{by}removed", f"{name_of(event.name)}{_after_colon(event.reason)}"


def _brought_back(event: BroughtBack, _row: Row, name_of: NameOf) -> _Words:
    return "brought", f"back {name_of(event.name)}"


def _resumed(event: Resumed, _row: Row, name_of: NameOf) -> _Words:
    is_other = event.parent_run_id not in ("", event.run_id)
    of_run = f" of run {escape(event.parent_run_id)}" if is_other else ""
    over = [f"{name_of(name)}: {escape(reason)}" for name, reason in event.passed_over.items()]
    passed_over = f", passing over {', '.join(over)}" if over else ""
    return "resumed", f"from {name_of(event.name)}{of_run}{passed_over}"


def _started(event: Started, row: Row, _name_of: NameOf) -> _Words:
    """Of the first start of a run all, of a later one what differs from the one before it."""
    ranks, before = count(event.world_size, "rank"), row.before
    commit = f"commit {escape(event.git_commit[:_COMMIT])}" if event.git_commit else ""
    if before is None:
        versions = [f"{escape(name)} {escape(one)}" for name, one in event.versions.items()]
        by = "" if event.by in ("", "Trainer") else f" by {escape(event.by)}"
        return "began:", _joined(f"run {escape(event.run_id)}{by}", ranks, commit, *versions)
    return "began", "again: " + (
        _joined(
            f"{ranks} (was {before.world_size})" if event.world_size != before.world_size else "",
            commit if event.git_commit != before.git_commit else "",
            "another configuration" if event.config_sha256 != before.config_sha256 else "",
            "other rules of retention" if event.keep != before.keep else "",
            *(
                f"{escape(name)} {escape(one)} (was {escape(before.versions.get(name, 'not there'))})"
                for name, one in event.versions.items()
                if before.versions.get(name) != one
            ),
        )
        or "as before"
    )


def _joined(*facts: str) -> str:
    return ", ".join(filter(None, facts))


def _save_failed(event: SaveFailed, _row: Row, name_of: NameOf) -> _Words:
    return "save failed:", f"{name_of(event.name)}{_after_colon(event.error)}"


def _signalled(event: Signalled, _row: Row, _name_of: NameOf) -> _Words:
    return escape(event.signal), "" if event.step < 0 else f"at step {event.step}"


def _ended(event: Ended, _row: Row, _name_of: NameOf) -> _Words:
    done = f"{count(event.epochs, 'epoch')}, {count(event.step, 'step')}"
    return "ended:", f"{escape(event.how)} after {done}{_after_colon(event.error)}"


def _unended(event: Unended, _row: Row, _name_of: NameOf) -> _Words:
    return "killed,", f"or cut off: no end is recorded after {when(event.since)}"


def _metrics(event: Measured | Saved) -> str:
    found = metrics(event.metrics)
    return "  " + "  ".join([one.replace(" ", GLUE) for one in found.split("  ")]) if found else ""


def _after_colon(text: str) -> str:
    return f": {escape(text)}" if text else ""


_KINDS: dict[type[Event], Callable[[Any, Row, NameOf], _Words]] = {
    Saved: _saved,
    Measured: _measured,
    Removed: _removed,
    BroughtBack: _brought_back,
    Resumed: _resumed,
    Started: _started,
    SaveFailed: _save_failed,
    Signalled: _signalled,
    Ended: _ended,
    Unended: _unended,
}
