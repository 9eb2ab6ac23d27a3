"""Whether a disk has room for what a run will keep on it."""

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.directory import catalog
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import MarlinError, StorageError
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.keep import RetentionArguments
from marlin_ckpt.naming import Kind
from marlin_ckpt.storage.local.mounts import free_bytes, wait_until_given_back
from marlin_ckpt.storage.local.publishing import existing_and_missing
from marlin_ckpt.storage.space import alone, taken, together_bytes
from marlin_ckpt.urls import is_url


class Size(NamedTuple):
    """What one checkpoint of a run takes.

    Attributes:
        whole: all its bytes.
        unchanged: how many of these are the same in each checkpoint, which can share them.
        copies: of what is unchanged, how many there are at most of so many checkpoints.
    """

    whole: int
    unchanged: int = 0
    copies: Callable[[int], int] = lambda checkpoints: checkpoints

    def of(self, checkpoints: int) -> int:
        """What so many take together."""
        copies = min(checkpoints, self.copies(checkpoints))
        return (self.whole - self.unchanged) * checkpoints + self.unchanged * copies


def check(args: DefaultCheckpointerArguments, size: Size, indices: int, run_id: str) -> None:
    """Compares what a run will keep with what is free, and with what the run has there already.

    Args:
        args: the checkpointer's.
        size: of one checkpoint.
        indices: how many indices the run has still to go through.
        run_id: of the run.

    Raises:
        StorageError: there is too little room.
    """
    rules = args.keep if isinstance(args.keep, RetentionArguments) else None
    directory = os.fspath(args.save_dir)
    if is_url(directory):  # a store has no end
        return
    kept = _most_kept(args, rules, indices)
    needed = needed_bytes(size, rules, kept)
    wait_until_given_back()
    free = free_bytes(existing_and_missing(directory)[0])
    if free is None or needed <= free:
        return
    if rules is not None and (own := _own(args, directory, run_id)):  # they count among what it will keep
        kept = _most_kept(args, rules, (own[-1].index or 0) + 1 + indices)
        whole = needed_bytes(size, rules, kept) - together_bytes(
            taken(one) or alone(one.size_bytes) for one in own
        )
        needed = max(0, min(needed, whole))
        if needed <= free:
            return
    what = f"a checkpoint of {size.whole:,} bytes"
    if rules is not None:
        what = f"{kept} checkpoints of {size.whole:,} bytes and one more"
        if size.of(kept) < size.whole * kept:
            what += f", which share {size.unchanged:,} bytes of each"
    hint = "free space, keep fewer (checkpointer.keep), or go on all the same with --no-space-check"
    what = f"too little room for {what}: {needed:,} bytes are needed, {free:,} are free"
    raise StorageError(what, directory, hint, errno=errno.ENOSPC)


def _most_kept(args: DefaultCheckpointerArguments, rules: RetentionArguments | None, indices: int) -> int:
    period = 1 if args.period == "auto" else args.period
    return most_kept(rules, -(-indices // period) + 1, indices)  # the last one is saved whatever the period


def _own(args: DefaultCheckpointerArguments, directory: str, run_id: str) -> list[Entry]:
    """What the run has kept so far, in order of the index."""
    try:
        found = catalog.find(directory, prefix=args.file_prefix, extension=args.file_ext)
    except MarlinError:
        return []
    inspected = [inspect(one) for one in found if one.name and one.name.kind is Kind.CHECKPOINT]
    return [one.entry for one in inspected if one.manifest is not None and one.manifest.run_id == run_id]


def most_kept(rules: RetentionArguments | None, saves: int, indices: int) -> int:
    """How many checkpoints rules keep at most.

    Args:
        rules: those; None: nothing is said of what is kept, and one is counted.
        saves: how many the run will make at most.
        indices: how many indices it will go through.
    """
    if rules is None:
        return 1
    counts = [rules.last, rules.hourly, rules.daily, rules.weekly]
    kept = sum(count for count in counts if count is not None)
    kept += sum(rule.count for rule in rules.best_rules())
    if rules.every is not None:
        kept += -(-indices // rules.every)
    return max(1, saves if rules.within is not None or not kept else min(kept, saves))


def needed_bytes(size: Size, rules: RetentionArguments | None, kept: int) -> int:
    """What the checkpoints of a run take: those that are kept, and one more, written before any goes.

    Args:
        size: of one.
        rules: what keeps them; None: one is all that is asked for.
        kept: how many are kept at most.
    """
    if rules is None:
        return size.whole
    limit = rules.max_bytes()
    kept_bytes = size.of(kept)
    return size.whole + (kept_bytes if limit is None else min(kept_bytes, max(limit, size.whole)))
