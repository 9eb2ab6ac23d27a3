"""The entry point: runs a command and maps what it raises to an exit code."""

from __future__ import annotations

import logging
import os
import sys

import typer

from marlin_ckpt.cli import render
from marlin_ckpt.cli.app import app
from marlin_ckpt.errors import MarlinError

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def main(args: list[str] | None = None) -> int:  # noqa: PLR0911 - one for each way to end
    """Runs the command line.

    Args:
        args: the arguments after the command's name; None: those of the process.

    Returns:
        the exit code; see the README for what each means.
    """
    arguments = sys.argv[1:] if args is None else list(args)
    render.prepare()
    handler = render.LogHandler()
    logging.getLogger("marlin_ckpt").addHandler(handler)
    try:
        return app(arguments or ["--help"], prog_name="marlin-ckpt", standalone_mode=False) or 0
    except typer.TyperException as error:
        return _usage_error(error)
    except typer.Abort:
        render.talk("aborted: nothing was changed")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except MarlinError as error:
        render.error(error)
        return error.exit_code
    except BrokenPipeError:
        return render.reader_has_gone()
    except Exception as error:
        if os.environ.get("MARLIN_CKPT_TRACEBACK"):
            raise
        render.unexpected(error)
        return 1
    finally:
        logging.getLogger("marlin_ckpt").removeHandler(handler)


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    command = "marlin-ckpt" if context is None else context.command_path
    render.usage_error(error.format_message(), f"{command} --help")
    return error.exit_code
