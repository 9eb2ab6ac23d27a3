"""Keeps to a run's rules: after each save, and when the disk is full. What goes wrong here ends no run."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.directory import removing
from marlin_ckpt.directory.removing import Removal
from marlin_ckpt.directory.retention.decide import Candidate, Decision
from marlin_ckpt.directory.retention.plan import Keeping
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.keep import RetentionArguments

OnRemoved = Callable[[DefaultCheckpointerArguments, Iterable[Removal]], None]
_MOST_REMOVED = 1000  # that are remembered for somebody who may never ask


class Keeper:
    """Removes what the rules of one run do not keep, and knows which files the run has written itself.

    Attributes:
        removed: what has gone, the last ones of many.
    """

    def __init__(self, logger: logging.Logger, on_removed: OnRemoved = lambda *_: None) -> None:
        self._logger = logger
        self._on_removed = on_removed
        self.removed: deque[Removal] = deque(maxlen=_MOST_REMOVED)
        self._keeping = Keeping()
        self._warned_of: set[str] = set()
        self._has_warned_of_none = False
        self._has_refused = False
        self._has_saved = False

    def saved(self, args: DefaultCheckpointerArguments, path: str, run_id: str, metrics: set[str]) -> None:
        """Removes what the rules let go, now that a new checkpoint is durable.

        Args:
            args: the checkpointer's.
            path: of the new checkpoint.
            run_id: of the run.
            metrics: the names of those that the new checkpoint has.
        """
        self._has_saved = True
        if not isinstance(args.keep, RetentionArguments):
            return
        self._keeping.trust(os.path.join(_own_directory(args), os.path.basename(path)))
        self._warn_of_missing(path, {rule.metric for rule in args.keep.best_rules()} - metrics, metrics)
        self._remove(args, run_id, {path: "just saved"}, after_save=path)

    def _warn_of_missing(self, path: str, missing: set[str], metrics: set[str]) -> None:
        """Warns once of a metric that may be misspelt; what is saved within an epoch has no metrics yet."""
        news = missing - self._warned_of if metrics else missing
        if not news or (not metrics and self._has_warned_of_none):
            return
        if metrics:
            self._warned_of |= news
            why = f"metric {', '.join(sorted(news))}, but {', '.join(sorted(metrics))}"
        else:
            self._has_warned_of_none = True
            why = "metrics, as what is saved within an epoch"
        because = {"after_save": path}
        self._logger.warning("keep.best does not count %s: it has no %s.", path, why, extra=because)

    def staying(
        self, args: DefaultCheckpointerArguments, path: str, manifest: Manifest, size_bytes: int
    ) -> list[Candidate]:
        """Which other checkpoints of the run the rules keep once a new one is there.

        Args:
            args: the checkpointer's.
            path: of the new checkpoint.
            manifest: of it.
            size_bytes: its length, roughly.

        Returns:
            those that count, in order of their index; none where the directory cannot be read.
        """
        coming = Candidate(
            path=os.path.join(_own_directory(args), os.path.basename(path)),
            index=manifest.index,
            time_s=time.time(),
            size_bytes=size_bytes,
            metrics=manifest.metrics,
            run_id=manifest.run_id,
        )
        names = {"prefix": args.file_prefix, "extension": args.file_ext}
        try:
            return self._keeping.staying(
                coming, args.keep, now_s=coming.time_s, **names, pinned=_named_by_arguments(args)
            )
        except (MarlinError, OSError):
            return []

    def make_room(self, args: DefaultCheckpointerArguments, run_id: str) -> bool:
        """Removes what the rules let go already; returns whether that has freed anything."""
        pinned = {}
        if args.resume_from and not self._has_saved:
            pinned[os.fspath(args.resume_from)] = "the run goes on from it"
        return self._remove(args, run_id, pinned) > 0

    def _remove(
        self, args: DefaultCheckpointerArguments, run_id: str, pinned: dict[str, str], after_save: str = ""
    ) -> int:
        rules = args.keep
        if not isinstance(rules, RetentionArguments):
            return 0
        pinned |= _named_by_arguments(args)
        try:
            plan = self._keeping.plan(
                _own_directory(args),
                rules,
                now_s=time.time(),
                prefix=args.file_prefix,
                extension=args.file_ext,
                run_id=run_id,
                pinned=pinned,
            )
        except (MarlinError, OSError) as error:
            self._logger.warning("Removed no old checkpoints: %s", error)
            return 0
        if plan.removal.removals and _keeps_nothing(plan.decisions, rules):
            if not self._has_refused:
                self._has_refused = True
                self._logger.warning("Removed no old checkpoints: no rule of keep keeps any of them.")
            return 0
        outcome = removing.carry_out(plan.removal)
        self._on_removed(args, outcome.removed)
        for removal in outcome.removed:
            # Which save led to it: whoever shows the saves, too, shows that one first.
            because = {"after_save": after_save}
            self._logger.info("Removed %s: %s.", removal.path, removal.reason, extra=because)
            self.removed.append(removal)
        for failure in outcome.failures:
            self._logger.warning("Could not remove %s: %s", failure.path, failure.error)
        return outcome.bytes_freed


def _named_by_arguments(args: DefaultCheckpointerArguments) -> dict[str, str]:
    if args.load_dir and args.load_filename:
        return {os.path.join(args.load_dir, args.load_filename): "load_filename names it"}
    return {}


def _keeps_nothing(decisions: Iterable[Decision], rules: RetentionArguments) -> bool:
    """Whether the rules wait for a metric that no checkpoint has: one that is misspelt will never come."""
    return bool(rules.best_rules()) and not any(one.is_wanted for one in decisions)


def _own_directory(args: DefaultCheckpointerArguments) -> str:
    """The directory that the run writes into; `save_dir` may be a link to it, which removing refuses."""
    text = os.fspath(args.save_dir).rstrip("/") or "/"
    return os.path.realpath(text) if os.path.islink(text) else text
