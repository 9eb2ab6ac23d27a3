"""The history of a directory that `log` prints: a line for each event, or its document."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.colour import painter
from marlin_ckpt.cli.table import cut, cut_sign, line_width
from marlin_ckpt.cli.text import count
from marlin_ckpt.cli.views.events import GLUE, when, words
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.cli.widths import width_of
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
from marlin_ckpt.directory.history.reading import Past
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations.history.lineage import KILLED, RUNNING, Run, Start, lacks_end
from marlin_ckpt.operations.history.rows import Row, Unended, short_ids

_STYLES: dict[type[Event], str] = {
    Started: "bold cyan",
    Resumed: "cyan",
    Measured: "",
    Saved: "green",
    SaveFailed: "bold red",
    Removed: "dim",
    BroughtBack: "dim",
    Signalled: "yellow",
    Ended: "bold",
    Unended: "bold yellow",
}
_FAILED = "bold red"  # of an end
_FATES = {KILLED: "{} was killed: it has no end, and its process has gone", RUNNING: "{} runs"}
_LEAST_WIDTH = 20  # of a text that is folded
_BLOCK = 1000  # lines that are written at once


def show(rows: Sequence[Row], run_ids: Collection[str]) -> None:
    """Prints a line for each row: its time, the run where there are several, and what happened.

    Args:
        rows: in the order in which they are printed.
        run_ids: of all runs that there could be rows of.
    """
    ids = {one: escape(short) for one, short in short_ids(run_ids).items()} if len(run_ids) > 1 else {}
    width = max((width_of(short) + 2 for short in ids.values()), default=0)
    cells = {one: short + " " * (width - width_of(short)) for one, short in ids.items()}
    none = " " * width
    line = line_width()
    lay_out = _whole if line is None else _folding(line, width)
    for begin in range(0, len(rows), _BLOCK):
        some = rows[begin : begin + _BLOCK]
        output.data("\n".join(lay_out(row, cells.get(row.run_id, none)) for row in some))


def _whole(row: Row, run: str) -> str:
    head, rest = words(row, escape)
    return f"{when(row.event.at)}  {run}{head} {rest}".replace(GLUE, " ").rstrip()


def _folding(line: int, taken: int) -> Callable[[Row, str], str]:
    """What lays out a row in lines of a width, folded below itself; `taken` are the columns of the run."""
    paint, sign = painter(), cut_sign()
    indent = len("2026-11-27 12:00:00  ") + taken
    width = max(_LEAST_WIDTH, line - indent)

    def name_of(name: str) -> str:
        return cut(escape(name), max(_LEAST_WIDTH, width // 2), "middle", sign)

    def lay_out(row: Row, run: str) -> str:
        event = row.event
        head, rest = words(row, name_of)
        first, *more = _folded(f"{head} {rest}".rstrip(), width)
        style = _FAILED if isinstance(event, Ended) and event.how == "failed" else _STYLES[type(event)]
        if first.startswith(head):
            first = paint(head, style) + first[len(head) :]
        line = f"{paint(when(event.at), 'dim')}  {paint(run, 'blue')}{first}"
        return "\n".join([line, *(" " * indent + one for one in more)]).replace(GLUE, " ")

    return lay_out


def _folded(text: str, width: int) -> list[str]:
    """A harmless text in lines of so many columns, broken at blanks; a longer word has a line of its own."""
    lines, line, taken = [], "", 0
    for word in text.split(" "):
        its = width_of(word)
        if line and taken + 1 + its > width:
            lines.append(line.rstrip())
            line, taken = word, its
        else:
            line, taken = (f"{line} {word}", taken + 1 + its) if taken else (word, its)
    return [*lines, line]


def tell_of_unread(past: Past) -> None:
    """Warns of the lines that are not shown."""
    if past.unread:
        output.talk(
            f"warning: {count(past.unread, 'line')} of the history cannot be read: damaged, or not ours"
        )
    if past.newer:
        output.talk(f"warning: {count(past.newer, 'event')} of a kind that a newer marlin-ckpt writes")


def tell_of_open(runs: Sequence[Run]) -> None:
    """Says that the last start has no end, where it should have one."""
    if not runs:
        return
    starts = [(run, run.starts[-1]) for run in runs]
    run, start = max(starts, key=lambda one: one[1].last.at)
    if lacks_end(start):
        of_run = f"run {escape(run.run_id)}"
        output.talk(_FATES.get(start.how, "{} has no end yet: it runs, or was killed").format(of_run))


def document(directory: str, past: Past, rows: Sequence[Row], runs: Sequence[Run]) -> dict[str, Any]:
    """The document of `log --json`."""
    return {
        "directory": directory,
        "runs": [{"run_id": run.run_id, "starts": [*map(_start, run.starts)]} for run in runs],
        **facts(past, "unread", "newer"),
        "events": [_event(row.event) for row in rows if not isinstance(row.event, Unended)],
    }


def _start(one: Start) -> dict[str, Any]:
    return {
        "at": one.first.at,
        "last_at": one.last.at,
        "ended_at": one.ended.at if one.ended else None,
        "how": one.how,
        "error": (one.ended and one.ended.error) or None,
        **facts(one.began, "config_sha256", "git_commit", "versions", "world_size"),
        "resumed_from": None if one.resumed is None else _parent(one.resumed),
        **facts(one, "saves", "failed_saves"),
    }


def _parent(one: Resumed) -> dict[str, Any]:
    return {
        **facts(one, "name", "index"),
        "run_id": one.parent_run_id or None,
        "save_number": one.parent_save_number or None,
        "passed_over": dict(one.passed_over),
    }


def _event(one: Event) -> dict[str, Any]:
    return {"event": one.kind, "at": one.at, "run_id": one.run_id, **one.facts()}
