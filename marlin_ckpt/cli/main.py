"""The entry point: runs a command and maps what it raises to an exit code."""

import functools
import logging
import os
import sys

import typer
from typer.main import get_command

from marlin_ckpt.cli import output
from marlin_ckpt.cli.app import CarriedError, app
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.storage.local.files import check_working_directory

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_READER_GONE = 141  # 128 + SIGPIPE


_command = functools.cache(get_command)  # made once in a process that runs several


def main(args: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: the arguments after the command's name; None: those of the process.

    Returns:
        the exit code; see the README for what each means.
    """
    handler = output.LogHandler()
    logging.getLogger("marlin_ckpt").addHandler(handler)
    logging.getLogger("marlin_ckpt.config").setLevel(logging.INFO)  # how it completes a configuration
    with output.prepared():
        try:
            code = _run((sys.argv[1:] if args is None else list(args)) or ["--help"])
            output.flush()
        except BaseException as error:  # noqa: BLE001 - every way to end has its code
            return _code_of(error)
        else:
            return code
        finally:
            logging.getLogger("marlin_ckpt").removeHandler(handler)


def _run(arguments: list[str]) -> int:
    try:
        with output.writing():  # the help, which Typer prints
            return _command(app)(arguments, prog_name="marlin-ckpt", standalone_mode=False) or 0
    except CarriedError as carried:
        error: Exception = carried.args[0]
    if isinstance(error, FileNotFoundError) and not os.path.isabs(getattr(error, "where", "")):
        check_working_directory()
    raise error  # here, so that its own cause is shown


def _code_of(error: BaseException) -> int:
    """Prints the error that ended the command, and returns the exit code that belongs to it."""
    if isinstance(error, SystemExit):  # of Typer's completion
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    if isinstance(error, output.ReaderGoneError):
        return _READER_GONE
    if isinstance(error, MarlinError):
        output.error(error)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = "marlin-ckpt" if context is None else context.command_path
        output.usage_error(error.format_message(), f"{command} --help")
        return error.exit_code
    if os.environ.get("MARLIN_CKPT_TRACEBACK") or not isinstance(error, Exception):
        raise error
    output.unexpected(error)
    return 1
