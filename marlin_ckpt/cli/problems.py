"""Prints what has ended a command: for people to stderr, and with `--json` as its document to stdout."""

import contextlib
import os
import traceback
from typing import Any

import typer

from marlin_ckpt.cli import output, stopping
from marlin_ckpt.errors import ArgumentsError, ConfigError, MarlinError, StorageError
from marlin_ckpt.escaping import escape

_SIGNALS: dict[object, str] = {130: "SIGINT", 143: "SIGTERM"}


def error(problem: MarlinError) -> None:
    """Prints what went wrong, then what to do next."""
    for one in problem.faults if isinstance(problem, (ArgumentsError, ConfigError)) else [problem]:
        output.talk(f"error: {escape(str(one))}")
    _tell_hint(problem)


def usage_error(problem: typer.TyperException) -> None:
    """Prints which argument was wrong, and the command that explains them."""
    output.talk(f"error: {escape(problem.format_message())}")
    _tell_hint(problem)


def _tell_hint(problem: BaseException) -> None:
    if hint := _hint_of(problem):
        output.talk(f"hint: {escape(hint)}")


def _hint_of(problem: BaseException) -> str:
    """What to do next, or ""; the same for people and in the document."""
    if isinstance(problem, MarlinError):
        return problem.hint
    if isinstance(problem, typer.TyperException):
        context = getattr(problem, "ctx", None)
        return f"{'marlin-ckpt' if context is None else context.command_path} --help"
    is_unexpected = isinstance(problem, Exception) and not isinstance(problem, output.ReaderGoneError)
    return "MARLIN_CKPT_TRACEBACK=1 in the environment shows where it came from" if is_unexpected else ""


def stopped(exit_code: int) -> None:
    """Prints what a command that a signal has stopped had done, where it says so."""
    if not output.documents.is_printed and (said := stopping.line(exit_code)):
        output.talk(said)


def exit_message(message: str) -> None:
    """Prints what a user's code gave `sys.exit`, as Python does."""
    output.talk("\n".join(map(escape, message.split("\n"))))


def unexpected(problem: Exception) -> None:
    """Prints an error that is none of the library's own: of a user's module, or a fault of ours."""
    frames = traceback.extract_tb(problem.__traceback__)
    # The place to look at is in the user's own code, though the error may be raised deep inside a library.
    others = {"site-packages", "marlin_ckpt"}
    own = [frame for frame in frames if others.isdisjoint(frame.filename.split(os.sep))]
    where = f": {(own or frames)[-1].filename}:{(own or frames)[-1].lineno}" if frames else ""
    output.talk(f"error: {type(problem).__name__}: {escape(str(problem))}{escape(where)}")
    _tell_hint(problem)


def message_of(problem: BaseException) -> str:
    """What has ended a command, without a hint, as its document has it."""
    if isinstance(problem, KeyboardInterrupt):
        return "stopped by SIGINT"
    if isinstance(problem, SystemExit) and problem.code in _SIGNALS:
        return f"stopped by {_SIGNALS[problem.code]}"
    # Typer's have no text of their own.
    return str(problem.format_message() if hasattr(problem, "format_message") else problem)


def document_of_failure(problem: BaseException, exit_code: int) -> None:
    """Prints the document of a command that was stopped or failed, unless it has printed one.

    Args:
        problem: what ended it.
        exit_code: that it ends with.
    """
    if output.documents.is_printed:
        return
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, MarlinError):
        found = output.documents.so_far()
    found["error"] = {
        "type": type(problem).__name__,
        "message": message_of(problem),
        "hint": _hint_of(problem),
        "exit_code": exit_code,
    }
    with contextlib.suppress(output.ReaderGoneError, StorageError):
        output.document(found)
        output.flush()
