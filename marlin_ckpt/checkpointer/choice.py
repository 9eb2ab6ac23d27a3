"""Which checkpoints of a series `CheckpointDirectory.load` tries, the first choice first."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from marlin_ckpt.checkpoint import checked_index
from marlin_ckpt.directory import leftovers
from marlin_ckpt.directory.newest import Candidates, OnPassedOver
from marlin_ckpt.directory.search import Series
from marlin_ckpt.distributed.failures import told_by_main
from marlin_ckpt.distributed.loading import check_same, newest_agreed
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import ArgumentsError, CheckpointNotFoundError, Fault
from marlin_ckpt.keep import BestArguments, RetentionArguments, there_are

Found = TypeVar("Found")
Which = int | Literal["latest", "best"]


@dataclass(frozen=True)
class Choice:
    """What is tried.

    Attributes:
        series: in which it is searched.
        which: what was asked for, in words.
        candidates: lists the checkpoints, the first choice first.
        is_search: whether the next is tried where one is damaged.
        rule: by which the first is the best, if it is.
    """

    series: Series
    which: str
    candidates: Candidates
    is_search: bool = True
    rule: BestArguments | None = None

    def loaded(
        self,
        ranks: Ranks,
        attempt: Callable[[Entry], Found],
        logger: logging.Logger,
        on_passed_over: OnPassedOver,
    ) -> Found:
        """Loads the first that all ranks can load, of those that rank 0 sees.

        Args:
            ranks: which all call this.
            attempt: loads a checkpoint, and ends alike at all ranks; returns anything but None.
            logger: is told by rank 0 of each that is passed over, with the reason.
            on_passed_over: as well, at every rank, with its path and the reason.

        Raises:
            CheckpointNotFoundError: there is none.
            RankError: another rank was asked for something else.
            MarlinError: as `newest_agreed`, and what `attempt` raises.
        """
        if ranks.is_main:
            leftovers.settle(self.series.directory)
        check_same(ranks, self.series.directory, f"{self.series.prefix} {self.which}")
        if not self.is_search:
            return attempt(told_by_main(ranks, lambda: next(iter(self.candidates()))))
        found = newest_agreed(ranks, self.candidates, attempt, logger, on_passed_over)
        if found is None:
            raise told_by_main(ranks, self._nothing)
        return found

    def _nothing(self) -> CheckpointNotFoundError:
        what, hint = f"no checkpoint of prefix {self.series.prefix}", ""
        if self.rule is not None:
            what += f" has a finite value of {self.rule.metric}"
            hint = there_are(self.series.metrics())
        return CheckpointNotFoundError(what, self.series.directory, hint)


def choose(
    series: Series, which: Which, metric: str | None, mode: str | None, keep: RetentionArguments | None
) -> Choice:
    """Finds out what is to be loaded; nothing is read yet.

    Args:
        series: the checkpoints.
        which: `latest`, `best` or an index.
        metric: of `best`; None: of the one rule `best` of `keep`.
        mode: of `best`; None: of that rule, or `min`.
        keep: the rules of retention.

    Raises:
        ArgumentsError: `which` is none of these, or it is not said by which metric it is the best.
    """
    if isinstance(which, str) and which == "best":
        rule = _rule(metric, mode, keep)
        return Choice(series, f"best {rule.metric} {rule.mode}", lambda: series.best_first(rule), rule=rule)
    if metric is not None or mode is not None:
        raise ArgumentsError([Fault("metric", "and mode go with 'best' alone")])
    if isinstance(which, str) and which == "latest":
        return Choice(series, which, series.newest_first)
    if not hasattr(which, "__index__"):
        raise ArgumentsError([Fault("which", f"expected 'latest', 'best' or an index, not {which!r}")])
    index = checked_index(which)
    return Choice(series, str(index), lambda: [series.with_index(index)], is_search=False)


def _rule(metric: str | None, mode: str | None, keep: RetentionArguments | None) -> BestArguments:
    """What is best; by the one rule `best` of `keep` where no metric is named."""
    if metric is not None:
        return BestArguments(metric, mode or "min")
    rules = keep.best_rules() if keep is not None else []
    if len(rules) != 1:
        raise ArgumentsError([Fault("metric", "is missing: by which metric is it the best?")])
    return replace(rules[0], mode=mode or rules[0].mode)
