"""The commands, registered."""

from __future__ import annotations

from typing import Annotated

import typer

from marlin_ckpt.cli import clean, latest, listing, render, train
from marlin_ckpt.version import __version__

app = typer.Typer(
    help="Checkpoints for PyTorch that survive kills and full disks.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 bad content, 4 no checkpoint found, "
    "130 interrupted.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        render.data(f"marlin-ckpt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


app.command("train", epilog=train.EXAMPLE)(train.train)
app.command("list", epilog=listing.EXAMPLE)(listing.list_)
app.command("latest", epilog=latest.EXAMPLE)(latest.latest)
app.command("clean", epilog=clean.EXAMPLE)(clean.clean)
