"""The entry point: runs a command and maps what it raises to an exit code."""

import contextlib
import functools
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import typer
from typer.main import get_command

from marlin_ckpt.cli import log, output
from marlin_ckpt.cli.app import app
from marlin_ckpt.cli.commands.registry import CarriedError, names
from marlin_ckpt.cli.help import ALIASES
from marlin_ckpt.cli.ranks import printing
from marlin_ckpt.errors import MarlinError, RankError

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_READER_GONE = 141  # 128 + SIGPIPE


_command = functools.cache(get_command)  # made once in a process that runs several


def main(args: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: the arguments after the command's name; None: those of the process.

    Returns:
        the exit code; docs/reference/exit-codes.md says what each means.
    """
    arguments = (sys.argv[1:] if args is None else list(args)) or ["--help"]
    process = os.getpid()
    with output.prepared(_schema_of(arguments)), log.shown(), printing.taking_part(arguments):
        try:
            with _unwinding():
                code = _run(arguments)
            output.flush()
        except BaseException as error:
            if os.getpid() != process:  # a user's code has forked, and the command goes on in the parent
                raise
            return _end(_what_counts(error), arguments)
        else:
            return code


def _schema_of(arguments: list[str]) -> str:
    """The name of the document that a command line asks for: the command, or `error` if it names none."""
    words = [one for one in arguments if not one.startswith("-")][:2]
    begins = ALIASES.get(" ".join(words[:1]), " ".join(words[:1])), " ".join(words)
    return next((one.replace(" ", "-") for one in names() if one in begins), "error")


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    """SIGTERM ends a command by an exception, so that it undoes what it has begun and prints its document."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
    raise SystemExit(128 + number)


def _what_counts(error: BaseException) -> BaseException:
    """The error that has ended a command: that another rank has ended, where a SIGTERM came on its heels.

    Torchrun sends one to all others once a rank has died.
    """
    found: BaseException | None = error if isinstance(error, SystemExit) else None
    while found is not None and not isinstance(found, RankError):
        found = found.__context__
    return found or error


def _end(error: BaseException, arguments: list[str]) -> int:
    """Prints what is to be printed of the error that ended a command, and returns the exit code."""
    from marlin_ckpt.cli import problems
    from marlin_ckpt.operations import launched

    code = _code_of(error)
    with printing.part.heard_out():
        if "--json" in itertools.takewhile(lambda one: one != "--", arguments):
            problems.document_of_failure(error, code)
        with printing.part.failing(error):
            _tell(error, code)
        launched.report(problems.message_of(error))
    return code


def _run(arguments: list[str]) -> int:
    if arguments[0].endswith("-completion"):
        from marlin_ckpt.cli import completion

        if completion.is_asked_for(arguments):
            completion.run(arguments)
            return 0
    try:
        command = _command(app)
        if "_MARLIN_CKPT_COMPLETE" in os.environ:
            from marlin_ckpt.cli import completion

            completion.join_urls()  # in the place of what Typer has set when it made the command
        with output.writing():  # the help, which Typer prints
            return command(arguments, prog_name="marlin-ckpt", standalone_mode=False) or 0
    except CarriedError as carried:
        error: BaseException = carried.args[0]
    if isinstance(error, FileNotFoundError) and not os.path.isabs(getattr(error, "where", "")):
        from marlin_ckpt.storage.local.files import check_working_directory

        check_working_directory()
    raise error  # here, so that its own cause is shown


def _code_of(error: BaseException) -> int:
    """The exit code that belongs to the error that ended a command."""
    if isinstance(error, SystemExit):  # of a user's module, a signal or Typer's completion; as Python has it
        return (error.code or 0) if error.code is None or isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    if isinstance(error, output.ReaderGoneError):
        return _READER_GONE
    return error.exit_code if isinstance(error, (MarlinError, typer.TyperException)) else 1


def _tell(error: BaseException, code: int) -> None:
    """Prints the error that ended a command for people, where there is something to print."""
    from marlin_ckpt.cli import problems

    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        problems.stopped(code)
    if isinstance(error, SystemExit):
        if not (error.code is None or isinstance(error.code, int)):
            problems.exit_message(str(error.code))
    elif isinstance(error, MarlinError):
        problems.error(error)
    elif isinstance(error, typer.TyperException):
        problems.usage_error(error)
    elif not isinstance(error, (KeyboardInterrupt, output.ReaderGoneError)):
        if os.environ.get("MARLIN_CKPT_TRACEBACK") or not isinstance(error, Exception):
            raise error
        problems.unexpected(error)
