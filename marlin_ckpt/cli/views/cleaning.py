"""What `clean` does and says."""

import os
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import replace

from marlin_ckpt.cli import output, stopping, table
from marlin_ckpt.cli.table import Column, figure
from marlin_ckpt.cli.text import count, size
from marlin_ckpt.cli.views import removals
from marlin_ckpt.cli.views.removals import How
from marlin_ckpt.directory import lease, removing, trash
from marlin_ckpt.directory.history import removals as history
from marlin_ckpt.directory.others import left_out
from marlin_ckpt.directory.removing import Outcome, Plan, Removal
from marlin_ckpt.directory.retention.decide import Decision
from marlin_ckpt.directory.retention.plan import RetentionPlan
from marlin_ckpt.directory.retention.pruning import make_newest_durable, refuse_what_keeps_nothing
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.escaping import escape
from marlin_ckpt.keep import RetentionArguments
from marlin_ckpt.storage.paths import exists, nearby
from marlin_ckpt.urls import is_url


def remove(how: How, plan: Plan) -> int:
    """Removes files, and says which; returns the exit code."""
    return _report(how, _carry_out(plan, how, lists=True))


def say_when_stopped(how: How, *, undoes: bool) -> None:
    """Has a signal that stops the command say how many files are gone, or are back."""
    verb = "brought back" if undoes else how.verb
    document = removals.returned if undoes else removals.document
    stopping.says(
        lambda: stopping.removed(how.gone, verb), lambda: document(how, Outcome(tuple(how.gone), ()))
    )


def tell_of_folders(found: Collection[Entry]) -> None:
    """Says that folders of other tools go by rules alone."""
    if found:
        what = f"{count(len(found), 'folder')} of other tools"
        output.talk(f"hint: {what} stay; a rule, such as --keep-last 2, removes whole ones")


def tell_of_more(directory: str, prefix: str | None, extension: str, *, recursive: bool) -> None:
    """Names the options under which there would be something to decide about."""
    ways = left_out.options(directory, prefix=prefix, extensions={extension}, recursive=recursive)
    if ways:
        output.talk(f"hint: there are files with {' or '.join(ways)}")


def tell_of_names_like(directory: str) -> None:
    """Names what is beside a prefix of a store under which there is nothing: that may be a slip."""
    if is_url(directory) and not exists(directory) and (hint := nearby(directory)):
        output.talk(f"hint: {escape(hint)}")


def _report(how: How, done: Outcome) -> int:
    output.result(how.json, lambda: removals.document(how, done), lambda: removals.outcome(how, done))
    return 1 if done.failures else 0


def retain(how: How, plan: RetentionPlan, rest: Plan, rules: RetentionArguments, run_id: str | None) -> int:
    """Removes what no rule keeps; returns the exit code.

    Args:
        how: it is done.
        plan: what goes and what stays.
        rest: what dead runs left half written, which goes too.
        rules: that decided it.
        run_id: the run that the plan is about; None: all runs.

    Raises:
        CheckpointNotFoundError: the run has no checkpoint.
        ArgumentsError: no checkpoint has the metric of a rule.
        MarlinError: nothing would be kept, or the answer to the question was no.
    """
    if run_id is not None and all(one.candidate.run_id != run_id for one in plan.decisions):
        raise CheckpointNotFoundError(f"no checkpoint of run {run_id}", how.directory)
    refuse_what_keeps_nothing(plan, rules, "add --keep-last 1 to keep the newest alone")
    asks = how.asks and output.can_ask() and not how.json
    if asks:
        _table(plan.decisions, how.directory)
    if plan.removal.removals and not how.dry_run:
        make_newest_durable(plan.decisions)
    all_of_it = replace(plan.removal, removals=(*rest.removals, *plan.removal.removals))
    done = _carry_out(all_of_it, how, lists=how.json)
    if how.json:
        checkpoints = [removals.decision(one) for one in plan.decisions]
        output.document({**removals.document(how, done), "checkpoints": checkpoints})
    else:
        if not asks:
            _table(plan.decisions, how.directory)
        removals.each(how, (one for one in done.removed if one in rest.removals))
        removals.failures(done.failures)
        removals.removed(how, done)
    return 1 if done.failures else 0


def _carry_out(plan: Plan, how: How, *, lists: bool) -> Outcome:
    if how.to_trash:
        trash.check(how.directory)
    if how.dry_run:
        return removing.would_be(plan)
    with _alone(how, plan.removals, moves=how.to_trash and bool(plan.removals)):
        if plan.removals and how.asks:
            removals.confirm_removal(plan, lists=lists)
        try:
            carry_out = trash.fill if how.to_trash else removing.carry_out
            return carry_out(plan, on_removed=how.gone.append)
        finally:  # also when a signal has stopped it
            history.went(tuple(how.gone), "clean --to-trash" if how.to_trash else "clean")


def _alone(how: How, changes: tuple[Removal, ...], *, moves: bool) -> AbstractContextManager[None]:
    """Keeps runs from the directories in which something changes, and fails where one saves there.

    Args:
        how: it is done.
        changes: what is removed, or moved.
        moves: whether it goes to the trash or comes from there.
    """
    directories = {how.directory, *(os.path.dirname(one.path) for one in changes)}
    return lease.held_where_used(directories, moves_in=how.directory if moves else "")


def _table(decisions: tuple[Decision, ...], directory: str) -> None:
    if not decisions:
        output.talk(f"no checkpoints in {escape(directory)}")
        return
    several = len({one.candidate.run_id for one in decisions if not one.candidate.apart}) > 1
    rows = [
        [
            "keep" if one.keep else "remove",
            str(one.candidate.index),
            size(one.candidate.size_bytes),
            (escape(one.candidate.run_id[:_RUN_LETTERS]) or "-") if several else "",
            escape("; ".join(one.reasons)),
            escape(os.path.relpath(one.candidate.path, directory)),
        ]
        for one in decisions
    ]
    table.show(rows, _COLUMNS)


_RUN_LETTERS = 12
_COLUMNS = (
    Column(""),
    figure("index"),
    figure("size", 6),
    Column("run", rank=7),
    Column("why", least=20, cut="end", rank=5),
    Column("file", least=table.FILE_LETTERS),
)


def undo(how: How) -> int:
    """Brings back what was moved last; returns the exit code."""
    done = trash.bring_back(how.directory, dry_run=True)
    if not how.dry_run:
        with _alone(how, done.removed, moves=True):
            try:
                done = trash.bring_back(how.directory, on_moved=how.gone.append)
            finally:
                history.came_back(tuple(how.gone))
    if how.json:
        output.document(removals.returned(how, done))
    else:
        verb = "would bring back" if how.dry_run else "brought back"
        for one in done.removed:
            output.sentence(f"{verb} {escape(one.path)}  {size(one.size_bytes)}")
        for failure in done.failures:
            output.talk(f"error: cannot bring back: {escape(failure.error)}: {escape(failure.path)}")
        if done.failures:
            output.talk("hint: what stands in its place must go first; the trash keeps it until then")
        output.talk(f"{count(len(done.removed), 'file')} {verb} to {escape(how.directory)}")
    return 1 if done.failures else 0


def empty_trash(how: How) -> int:
    """Removes what lies in the trash for good; returns the exit code."""
    done = _carry_out(trash.plan_emptying(how.directory), how, lists=True)
    if not how.dry_run:
        trash.remove_folders(how.directory)
    return _report(how, done)
