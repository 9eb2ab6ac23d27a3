"""The only place that prints: data to stdout, talk to stderr, every name made harmless."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from marlin_ckpt.cli.views.text import count, escape, metrics, size
from marlin_ckpt.errors import ArgumentsError, ConfigError, MarlinError, StorageError

if TYPE_CHECKING:
    from marlin_ckpt.cli.views.live import LiveBar
    from marlin_ckpt.operations.starting import Start

_SHORT_TABLE = 8


def prepare() -> None:
    """Makes printing of any text possible, whatever the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class ReaderGoneError(Exception):
    """What reads our output has ended (`| head`): nothing is left to say, and nobody to say it to."""


def data(text: str) -> None:
    """Prints a line of data to stdout.

    Raises:
        ReaderGoneError: nobody reads it any more.
        StorageError: it cannot be written.
    """
    with _stdout() as stream:
        stream.write(text + "\n")


@contextlib.contextmanager
def _stdout() -> Iterator[TextIO]:
    try:
        yield sys.stdout
    except BrokenPipeError as error:
        _silence_stdout()
        raise ReaderGoneError from error
    except OSError as error:
        _silence_stdout()
        raise StorageError.of("cannot write the output", "stdout", error) from error


def _silence_stdout() -> None:
    # Python would complain at exit, when it flushes what is left.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def stdout_for_data_alone() -> Iterator[None]:
    """While a user's code runs, what it prints is talk: a script reads nothing but our data from stdout."""
    if sys.stderr is None:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def flush() -> None:
    """Writes out what stdout holds back; raises as `data` does."""
    with _stdout() as stream:
        stream.flush()


def talk(text: str) -> None:
    """Prints a line of talk to stderr, if there is one to hear it."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.write(text + "\n")


def is_terminal() -> bool:
    """Whether talk goes to a person."""
    return sys.stderr is not None and sys.stderr.isatty()


def path(text: str) -> None:
    """Prints a path alone: harmless on a terminal, byte for byte into a pipe, where a script opens it."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None or sys.stdout.isatty():
        data(escape(text))
        return
    with _stdout() as stream:
        stream.flush()
        binary.write(os.fsencode(text) + b"\n")


def document(value: Any) -> None:
    """Prints one JSON document, in ASCII: control characters and bytes beyond UTF-8 are escapes in it."""
    import json

    from marlin_ckpt.formats.manifest import json_ready

    data(json.dumps(json_ready(value), indent=2))


def only_warnings() -> None:
    """Keeps the library's log from saying what went as it should."""
    for handler in logging.getLogger("marlin_ckpt").handlers:
        if isinstance(handler, LogHandler):
            handler.setLevel(logging.WARNING)


class LogHandler(logging.Handler):
    """Shows the library's log as talk."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one line."""
        head = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        talk(head + escape(record.getMessage()))


def error(problem: MarlinError) -> None:
    """Prints what went wrong, then what to do next."""
    if isinstance(problem, (ArgumentsError, ConfigError)):
        for fault in problem.faults:
            talk(f"error: {escape(str(fault))}")
    else:
        talk(f"error: {escape(str(problem))}")
    if problem.hint:
        talk(f"hint: {escape(problem.hint)}")


def usage_error(message: str, command: str) -> None:
    """Prints what was wrong with the arguments."""
    talk(f"error: {escape(message)}")
    talk(f"hint: {escape(command)}")


def unexpected(problem: Exception) -> None:
    """Prints an error that is not ours: of a user's module, or one that we did not think of."""
    import traceback

    frames = traceback.extract_tb(problem.__traceback__)
    # The place to look at is in the user's own code, though the error may be raised deep inside a library.
    own = [
        frame for frame in frames if not {"site-packages", "marlin_ckpt"} & {*frame.filename.split(os.sep)}
    ]
    where = f": {(own or frames)[-1].filename}:{(own or frames)[-1].lineno}" if frames else ""
    talk(f"error: {type(problem).__name__}: {escape(str(problem))}{escape(where)}")
    talk("hint: MARLIN_CKPT_TRACEBACK=1 in the environment shows where it came from")


def table(headers: list[str], rows: list[list[str]], right: set[int]) -> None:
    """Prints a table: fitted to a terminal's width, else in plain columns, nothing cut off.

    Args:
        headers: the names of the columns; the last one may be folded.
        rows: harmless texts.
        right: the numbers of the columns to be set to the right.
    """
    if sys.stdout.isatty():
        from marlin_ckpt.cli.views.live import print_table

        print_table(headers, rows, right)
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in [headers, *rows]:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        data("  ".join(cells).rstrip())


@contextlib.contextmanager
def bytes_bar(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar of bytes on a terminal; yields what is to be told of each further number of bytes."""
    if quiet or not is_terminal():
        yield lambda _: None
        return
    from marlin_ckpt.cli.views.live import bytes_bar as live_bytes_bar

    with live_bytes_bar(total) as advance:
        yield advance


def announce_start(start: Start, *, quiet: bool) -> None:
    """Says what a run continues from, and warns of what it will delete or replace."""
    where = escape(start.save_dir)
    for reason in start.skipped:
        talk(f"warning: passed over {escape(reason)}")
    if start.resumes_from and not quiet:
        talk(f"resuming from {escape(start.resumes_from)}")
    if start.deletes:
        talk(f"warning: deletes {count(len(start.deletes), 'file')} of an earlier run in {where}")
    if start.replaces:
        names = ", ".join(escape(one) for one in start.replaces[:3])
        more = ", ..." if len(start.replaces) > 3 else ""  # noqa: PLR2004 - enough to know them by
        files = count(len(start.replaces), "file")
        talk(f"warning: saves over {files} of an earlier run: {names}{more}")
        talk(
            "hint: --resume continues a run; other directories for save_dir and model_state_save_dir keep it"
        )
    if start.keeps:
        newest = escape(os.path.basename(start.keeps[-1]))
        talk(f"warning: {newest} of an earlier run in {where} stays, and `latest` will go on naming it")


def live_bar() -> LiveBar:
    """A line on the terminal that shows how far a run is."""
    from marlin_ckpt.cli.views.live import LiveBar

    return LiveBar()


def run_table(report: dict[str, Any]) -> None:
    """Prints what a run wrote: its last files and how many there are."""
    files = report["files"]
    rows = [
        [
            str(one["index"]),
            one["kind"],
            size(one["size_bytes"]),
            metrics(one["metrics"] or {}),
            escape(one["path"]),
        ]
        for one in files[-_SHORT_TABLE:]
    ]
    if rows:
        table(["index", "kind", "size", "metrics", "file"], rows, {0, 2})
    epochs, steps = count(report["epochs"], "epoch"), count(report["global_steps"], "step")
    gone = report["removed"]
    saved = {one["path"] for one in report["saves"]}
    own = [one for one in gone if one["path"] in saved]  # the others are of the run before it was resumed
    total = sum(one["size_bytes"] for one in [*files, *own])
    wrote = f"{count(len(files) + len(own), 'file')} written, {size(total)}"
    wrote += f", {len(own)} of them removed" if own else ""
    wrote += f", {len(gone) - len(own)} earlier removed" if len(gone) > len(own) else ""
    share = "" if report["overhead"] is None else f"; saves cost {report['overhead']:.1%} of the time"
    run_id = escape(str(report["run_id"]))  # taken over from the file that the run went on from
    talk(f"run {run_id}: {epochs}, {steps}, {report['seconds']:.1f} s; {wrote}{share}")
