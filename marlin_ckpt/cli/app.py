"""The command line as Typer has it."""

from typing import Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.help import Commands
from marlin_ckpt.version import __version__

app = typer.Typer(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Checkpoints for PyTorch that survive kills and full disks.",
    epilog="Exit codes: 0 done, 1 failed (diff: they differ), 2 usage or configuration, or train would write "
    "over another run, 3 bad content (prove-resume: it differs; salvage: something is lost), 4 no checkpoint "
    "found, 5 directory in use, 130 interrupted, 141 the reader of the output has gone, 143 terminated.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        output.data(f"marlin-ckpt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    del version
