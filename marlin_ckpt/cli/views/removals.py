"""What is asked and said of files that go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from marlin_ckpt.cli import output
from marlin_ckpt.cli.views.text import count, escape, size
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.storage.local import temporary

if TYPE_CHECKING:
    from marlin_ckpt.directory.removing import Failure, Outcome, Plan


def can_ask() -> bool:
    """Whether there is a person to answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm_removal(plan: Plan, *, lists: bool) -> None:
    """Asks a person on a terminal before anything is removed; does not ask a script.

    Args:
        plan: what would be removed.
        lists: whether to say first what that is.

    Raises:
        MarlinError: the answer was no.
    """
    if not can_ask():
        return
    for removal in plan.removals if lists else ():
        output.talk(f"{escape(removal.path)}  {size(removal.size_bytes)}")
    total = sum(removal.size_bytes for removal in plan.removals)
    # Not Typer's question, which takes Ctrl-C for a no.
    sys.stderr.write(f"Remove {count(len(plan.removals), 'file')}, {size(total)}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise MarlinError("aborted: nothing was removed")


def outcome(directory: str, done: Outcome, *, dry_run: bool, to_trash: bool = False) -> None:
    """Prints what `clean` removed, would remove, or could not remove."""
    moves = ("would move" if dry_run else "moved") if to_trash else ("would remove" if dry_run else "removed")
    for removal in done.removed:
        is_rest = to_trash and temporary.is_temporary(os.path.basename(removal.name))  # which no trash takes
        verb = ("would remove" if dry_run else "removed") if is_rest else moves
        output.data(f"{verb} {escape(removal.path)}  {size(removal.size_bytes)}  ({escape(removal.reason)})")
    failures(done.failures)
    removed(directory, done, dry_run=dry_run, to_trash=to_trash)


def failures(found: Iterable[Failure]) -> None:
    """Says what could not be removed, and why."""
    for failure in found:
        output.talk(f"error: cannot remove: {escape(failure.error)}: {escape(failure.path)}")


def removed(directory: str, done: Outcome, *, dry_run: bool, to_trash: bool) -> None:
    """Says how much has gone."""
    files, total = count(len(done.removed), "file"), size(sum(one.size_bytes for one in done.removed))
    if not to_trash:
        output.talk(f"{files} in {escape(directory)}, {'would free' if dry_run else 'freed'} {total}")
        return
    output.talk(f"{files} in {escape(directory)} {'would go' if dry_run else 'went'} to its .trash, {total}")
    if done.removed and not dry_run:
        output.talk("hint: clean --undo brings them back, clean --empty-trash frees the space")
