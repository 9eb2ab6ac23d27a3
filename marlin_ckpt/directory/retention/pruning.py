"""Applies rules to a directory once, and says what became of each checkpoint."""

import time

from marlin_ckpt.directory import removing
from marlin_ckpt.directory.retention.plan import Keeping
from marlin_ckpt.directory.search import Series
from marlin_ckpt.keep import RetentionArguments
from marlin_ckpt.reports import Pruning


def prune(series: Series, rules: RetentionArguments, *, dry_run: bool) -> Pruning:
    """Removes what the rules do not keep of each run, or only decides.

    Args:
        series: the checkpoints.
        rules: what to keep; the newest intact checkpoint of each run stays whatever they say.
        dry_run: remove nothing.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    plan = Keeping().plan(
        series.directory,
        rules,
        now_s=time.time(),
        prefix=series.prefix,
        extension=series.extension,
        run_id=series.run_id,
    )
    going = {one.path for one in plan.removal.removals}
    failures = plan.removal.unreadable if dry_run else removing.carry_out(plan.removal).failures
    failed = {one.path: one.error for one in failures}
    reasons = {one.candidate.path: one.reasons for one in plan.decisions}
    kept = {path: why for path, why in reasons.items() if path not in going}
    removed = {path: why for path, why in reasons.items() if path in going - failed.keys()}
    return Pruning(kept, removed, failed)
