"""Pages of the reference that are made from the code: the commands and the keys of the YAML."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from marlin_ckpt.cli.app import app


def commands() -> str:
    """The help of every command, as Markdown."""
    command = get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="marlin-ckpt")


def write(directory: Path) -> None:
    """Writes each page into a directory, where the pages of `docs/` include it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "commands.md").write_text(commands(), encoding="utf-8")
