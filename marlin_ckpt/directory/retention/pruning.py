"""Applies rules to a directory once, and says what became of each checkpoint."""

import os
import time
from collections.abc import Iterable

from marlin_ckpt.directory import lease, removing
from marlin_ckpt.directory.history import removals
from marlin_ckpt.directory.retention.decide import Decision
from marlin_ckpt.directory.retention.plan import Keeping, RetentionPlan
from marlin_ckpt.directory.search import Series
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.keep import RetentionArguments, unknown_metric
from marlin_ckpt.reports import Pruning
from marlin_ckpt.storage import paths


def prune(series: Series, rules: RetentionArguments, *, dry_run: bool) -> Pruning:
    """Removes what the rules do not keep of each run, or only decides.

    Args:
        series: the checkpoints.
        rules: what to keep; the newest intact checkpoint of each run stays whatever they say.
        dry_run: remove nothing.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        DirectoryInUseError: a trainer saves there.
        StorageError: it cannot be read.
        MarlinError, ArgumentsError: see `refuse_what_keeps_nothing`.
    """
    link = series.directory if os.path.islink(series.directory.rstrip("/")) else ""
    plan = Keeping().plan(
        os.path.realpath(link) if link else series.directory,
        rules,
        now_s=time.time(),
        prefix=series.prefix,
        extension=series.extension,
        run_id=series.run_id,
    )
    refuse_what_keeps_nothing(plan, rules, "add last=1 to keep the newest alone")
    if dry_run:
        outcome = removing.would_be(plan.removal)
    else:
        with lease.held_where_used([plan.removal.directory] if plan.removal.removals else []):
            make_newest_durable(plan.decisions if plan.removal.removals else ())
            outcome = removing.carry_out(plan.removal)
            removals.went(outcome.removed, "prune")

    def named(path: str) -> str:
        """As the directory was named, through a link if it was."""
        return os.path.join(link, os.path.basename(path)) if link else path

    reasons = {named(one.candidate.path): one.reasons for one in plan.decisions}
    failed = {named(one.path): one.error for one in outcome.failures}
    removed = {named(one.path): reasons[named(one.path)] for one in outcome.removed}
    going = {named(one.path) for one in plan.removal.removals}
    return Pruning({path: why for path, why in reasons.items() if path not in going}, removed, failed)


def make_newest_durable(decisions: Iterable[Decision]) -> None:
    """Makes the newest checkpoint of each run durable, before others go.

    A copy of one, or what `torch.save` has written, may not be on the disk yet.

    Raises:
        StorageError: one cannot be made durable.
    """
    for one in decisions:
        if "newest" in one.reasons:
            paths.make_durable(one.candidate.path)


def refuse_what_keeps_nothing(plan: RetentionPlan, rules: RetentionArguments, hint: str) -> None:
    """Takes rules by which nothing would be kept for a slip.

    Args:
        plan: by the rules.
        rules: what to keep.
        hint: how to keep the newest checkpoint alone.

    Raises:
        MarlinError: they would remove all but what stays anyway.
        ArgumentsError: they name a metric that no checkpoint has.
    """
    counted = [one for one in plan.decisions if not one.candidate.apart]
    for rule in rules.best_rules():
        known = {name for one in counted for name in one.candidate.metrics}
        if counted and rule.metric not in known:
            raise unknown_metric(rule.metric, known, plan.removal.directory)
    if any(not one.keep for one in counted) and not any(one.is_wanted for one in counted):
        number = f"{len(counted)} checkpoint{'s' * (len(counted) != 1)}"
        raise MarlinError(f"refused: no rule keeps any of {number}", "", hint)
