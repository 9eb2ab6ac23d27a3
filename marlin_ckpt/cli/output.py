"""The only place that prints: data to stdout, talk to stderr; and asks, where a person is there to answer."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TextIO

from marlin_ckpt.cli.text import escape
from marlin_ckpt.errors import ArgumentsError, ConfigError, MarlinError, StorageError


def prepare() -> None:
    """Makes printing of any text possible, whatever the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class ReaderGoneError(Exception):
    """The process that reads stdout has ended (`| head`), so that nothing more can be printed."""


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
    # Python would print an error at exit, when it flushes stdout.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stdout_for_data_alone() -> AbstractContextManager[object]:
    """Sends to stderr what a user's code prints meanwhile, so that scripts read only our data from stdout."""
    return contextlib.nullcontext() if sys.stderr is None else contextlib.redirect_stdout(sys.stderr)


def flush() -> None:
    """Flushes stdout; raises as `data` does."""
    with _stdout() as stream:
        stream.flush()


def talk(text: str) -> None:
    """Prints a line of talk to stderr, where the process has one."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.write(text + "\n")


def is_terminal() -> bool:
    """Whether stderr is a terminal, so that a person reads the talk."""
    return sys.stderr is not None and sys.stderr.isatty()


def path(text: str) -> None:
    """Prints a path: escaped on a terminal, byte for byte into a pipe, so that a script can open it."""
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


def result(as_json: bool, document_of: Callable[[], Any], show: Callable[[], None]) -> None:
    """Prints the result of a command.

    Args:
        as_json: whether it is printed as a document.
        document_of: makes the document.
        show: prints the result for people.
    """
    if as_json:
        document(document_of())
    else:
        show()


def only_warnings() -> None:
    """Shows only warnings and errors of the library's log from now on."""
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
    for one in problem.faults if isinstance(problem, (ArgumentsError, ConfigError)) else [problem]:
        talk(f"error: {escape(str(one))}")
    if problem.hint:
        talk(f"hint: {escape(problem.hint)}")


def usage_error(message: str, command: str) -> None:
    """Prints which argument was wrong, and the command that explains them."""
    talk(f"error: {escape(message)}")
    talk(f"hint: {escape(command)}")


def unexpected(problem: Exception) -> None:
    """Prints an error that is none of the library's own: of a user's module, or a fault of ours."""
    import traceback

    frames = traceback.extract_tb(problem.__traceback__)
    # The place to look at is in the user's own code, though the error may be raised deep inside a library.
    others = {"site-packages", "marlin_ckpt"}
    own = [frame for frame in frames if others.isdisjoint(frame.filename.split(os.sep))]
    where = f": {(own or frames)[-1].filename}:{(own or frames)[-1].lineno}" if frames else ""
    talk(f"error: {type(problem).__name__}: {escape(str(problem))}{escape(where)}")
    talk("hint: MARLIN_CKPT_TRACEBACK=1 in the environment shows where it came from")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], figures: Collection[str]) -> None:
    """Prints a table: fitted to a terminal's width, else in plain columns, nothing cut off.

    Args:
        headers: the names of the columns; the last one may be folded.
        rows: harmless texts; a column in which they are all empty is left out.
        figures: the names of the columns to be set to the right.
    """
    columns = [column for column in zip(headers, *rows, strict=True) if any(column[1:]) or not rows]
    right = {number for number, column in enumerate(columns) if column[0] in figures}
    headers, *rows = zip(*columns, strict=True)
    if sys.stdout.isatty():
        from marlin_ckpt.cli.terminal import table_text

        data(table_text(headers, rows, right))
        return
    widths = [max(map(len, column)) for column in columns]
    for row in [headers, *rows]:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        data("  ".join(cells).rstrip())


def bytes_bar(total: int, *, quiet: bool) -> AbstractContextManager[Callable[[int], None]]:
    """A bar of bytes on a terminal, and nothing elsewhere.

    Args:
        total: how many bytes there are in all.
        quiet: show nothing.

    Returns:
        a context whose value is a function to be called with each further number of bytes.
    """
    if quiet or not is_terminal():
        return contextlib.nullcontext(lambda _: None)
    from marlin_ckpt.cli import terminal

    return terminal.bytes_bar(total)


def can_ask() -> bool:
    """Whether a person is there to answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()


def ask(question: str) -> bool:
    """Asks a question on stderr that only `y` or `yes` answers with yes.

    Typer's own question would take Ctrl-C for a no.
    """
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
