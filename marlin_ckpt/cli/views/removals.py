"""The files that `clean` removes or brings back: the question, the lines and the document."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import count, escape, size
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.storage.local import temporary

if TYPE_CHECKING:
    from marlin_ckpt.directory.removing import Failure, Outcome, Plan, Removal
    from marlin_ckpt.directory.retention.decide import Decision
    from marlin_ckpt.directory.trash import Returned


def confirm_removal(plan: Plan, *, lists: bool) -> None:
    """Asks a person on a terminal before anything is removed; does not ask a script.

    Args:
        plan: the removals.
        lists: whether to list the files first.

    Raises:
        MarlinError: the answer was no.
    """
    if not output.can_ask():
        return
    for removal in plan.removals if lists else ():
        output.talk(f"{escape(removal.path)}  {size(removal.size_bytes)}")
    total = sum(removal.size_bytes for removal in plan.removals)
    if not output.ask(f"Remove {count(len(plan.removals), 'file')}, {size(total)}?"):
        raise MarlinError("aborted: nothing was removed")


def outcome(directory: str, done: Outcome, *, dry_run: bool, to_trash: bool = False) -> None:
    """Prints the files that `clean` removed, would remove, or could not remove."""
    moves = ("would move" if dry_run else "moved") if to_trash else ("would remove" if dry_run else "removed")
    for removal in done.removed:
        is_rest = to_trash and temporary.is_temporary(os.path.basename(removal.name))  # which no trash takes
        verb = ("would remove" if dry_run else "removed") if is_rest else moves
        output.data(f"{verb} {escape(removal.path)}  {size(removal.size_bytes)}  ({escape(removal.reason)})")
    failures(done.failures)
    removed(directory, done, dry_run=dry_run, to_trash=to_trash)


def failures(found: Iterable[Failure]) -> None:
    """Prints the files that could not be removed, and why."""
    for failure in found:
        output.talk(f"error: cannot remove: {escape(failure.error)}: {escape(failure.path)}")


def removed(directory: str, done: Outcome, *, dry_run: bool, to_trash: bool) -> None:
    """Prints how many files were removed, and their size."""
    files, total = count(len(done.removed), "file"), size(sum(one.size_bytes for one in done.removed))
    if not to_trash:
        output.talk(f"{files} in {escape(directory)}, {'would free' if dry_run else 'freed'} {total}")
        return
    output.talk(f"{files} in {escape(directory)} {'would go' if dry_run else 'went'} to its .trash, {total}")
    if done.removed and not dry_run:
        output.talk("hint: clean --undo brings them back, clean --empty-trash frees the space")


def document(directory: str, done: Outcome, *, dry_run: bool, to_trash: bool = False) -> dict[str, Any]:
    """The document of `clean --json`."""
    return {
        "directory": directory,
        "dry_run": dry_run,
        "to_trash": to_trash,
        "removed": [removal(one) for one in done.removed],
        "failed": [{"path": one.path, "error": one.error} for one in done.failures],
        "bytes_freed": 0 if to_trash else done.bytes_freed,
    }


def removal(one: Removal) -> dict[str, Any]:
    """One file that is removed, or would be."""
    return {"path": one.path, "size_bytes": one.size_bytes, "reason": one.reason}


def decision(one: Decision) -> dict[str, Any]:
    """One checkpoint as `clean --json` with rules describes it."""
    return {
        "path": one.candidate.path,
        "index": one.candidate.index,
        "size_bytes": one.candidate.size_bytes,
        "run_id": one.candidate.run_id or None,
        "keep": one.keep,
        "reasons": list(one.reasons),
    }


def returned(directory: str, done: Returned, *, dry_run: bool) -> dict[str, Any]:
    """The document of `clean --undo --json`."""
    return {
        "directory": directory,
        "dry_run": dry_run,
        "returned": [{"path": one.path, "size_bytes": one.size_bytes} for one in done.files],
        "failed": [{"path": one.path, "error": one.error} for one in done.failures],
    }
