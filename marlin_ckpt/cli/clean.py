"""`marlin-ckpt clean`."""

from __future__ import annotations

from typing import Annotated

import typer

from marlin_ckpt.cli import render
from marlin_ckpt.cli.options import Directory, Extension, Json, Prefix, Recursive

EXAMPLE = "Example: marlin-ckpt clean checkpoints --dry-run"


def clean(
    directory: Directory,
    ext: Extension = "pt",
    prefix: Prefix = None,
    recursive: Recursive = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")] = False,
    json: Json = False,
) -> int:
    """Remove the files of one extension, and what dead runs left half written.

    Only regular files go, never anything through a symbolic link.
    """
    from marlin_ckpt.cli import documents
    from marlin_ckpt.directory import pruning

    plan = pruning.plan_cleaning(directory, extension=ext, prefix=prefix, recursive=recursive)
    if dry_run:
        outcome = pruning.Outcome(plan.removals, plan.unreadable)
    else:
        if plan.removals and not yes:
            render.confirm_removal(plan)
        outcome = pruning.carry_out(plan)
    if json:
        render.document(documents.outcome(directory, outcome, dry_run=dry_run))
    else:
        render.outcome(directory, outcome, dry_run=dry_run)
    return 1 if outcome.failures else 0
