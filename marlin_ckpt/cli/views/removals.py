"""The files that `clean` removes or brings back: the question, the lines and the document."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import count, size
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.directory.removing import Failure, Outcome, Plan, Removal
from marlin_ckpt.directory.retention.decide import Decision
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.escaping import escape
from marlin_ckpt.storage.local import temporary


@dataclass(frozen=True, slots=True)
class How:
    """How a removal is done.

    Attributes:
        directory: as it was given.
        to_trash: move instead.
        dry_run: only say what would be done.
        asks: a person on a terminal is asked first.
        json: say it as a document.
        gone: what has been removed or brought back so far.
    """

    directory: str
    to_trash: bool
    dry_run: bool
    asks: bool
    json: bool
    gone: list[Removal] = field(default_factory=list)

    @property
    def verb(self) -> str:
        """What is done to files."""
        return "moved to the trash" if self.to_trash else "removed"


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


def outcome(how: How, done: Outcome) -> None:
    """Prints the files that `clean` removed, would remove, or could not remove."""
    each(how, done.removed)
    failures(done.failures)
    removed(how, done)


def each(how: How, found: Iterable[Removal]) -> None:
    """Prints a line for each file that `clean` removed, or would remove."""
    for removal in found:
        # What dead runs left half written goes into no trash.
        moves = how.to_trash and not temporary.is_temporary(os.path.basename(removal.name))
        done_already, still_to_do = ("moved", "would move") if moves else ("removed", "would remove")
        verb = still_to_do if how.dry_run else done_already
        output.sentence(
            f"{verb} {escape(removal.path)}  {size(removal.size_bytes)}  ({escape(removal.reason)})"
        )


def failures(found: Iterable[Failure]) -> None:
    """Prints the files that could not be removed, and why."""
    for failure in found:
        output.talk(f"error: cannot remove: {escape(failure.error)}: {escape(failure.path)}")


def removed(how: How, done: Outcome) -> None:
    """Prints how many files were removed, and what that gave back."""
    where = f"{count(len(done.removed), 'file')} in {escape(how.directory)}"
    if not how.to_trash:
        freed = size(done.bytes_freed)
        output.talk(f"{where}, {'would free' if how.dry_run else 'freed'} {freed}")
        return
    total = size(sum(one.size_bytes for one in done.removed))
    output.talk(f"{where} {'would go' if how.dry_run else 'went'} to its .trash, {total}")
    if done.removed and not how.dry_run:
        output.talk("hint: clean --undo brings them back, clean --empty-trash frees the space")


def document(how: How, done: Outcome) -> dict[str, Any]:
    """The document of `clean --json`."""
    return {
        **facts(how, "directory", "dry_run", "to_trash"),
        "removed": [removal(one) for one in done.removed],
        "failed": [facts(one, "path", "error") for one in done.failures],
        "bytes_freed": 0 if how.to_trash else done.bytes_freed,
    }


def removal(one: Removal) -> dict[str, Any]:
    """One file that is removed, or would be."""
    return facts(one, "path", "size_bytes", "reason")


def decision(one: Decision) -> dict[str, Any]:
    """One checkpoint as `clean --json` with rules describes it."""
    return {
        **facts(one.candidate, "path", "index", "size_bytes"),
        "run_id": one.candidate.run_id or None,
        **facts(one, "keep", "reasons"),
    }


def returned(how: How, done: Outcome) -> dict[str, Any]:
    """The document of `clean --undo --json`."""
    return {
        **facts(how, "directory", "dry_run"),
        "returned": [facts(one, "path", "size_bytes") for one in done.removed],
        "failed": [facts(one, "path", "error") for one in done.failures],
    }
