"""What ranks that load together agree on: which checkpoint is the newest good one, and how a load ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import TypeVar

from marlin_ckpt.directory.newest import Candidates, OnPassedOver, is_passed_over, newest_loaded
from marlin_ckpt.distributed.failures import as_sent, together, told_by_main
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError, RankError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.local.files import absolute

_T = TypeVar("_T")
_SILENT = get_logger("marlin_ckpt.distributed.silent")
_SILENT.disabled = True


class _End(IntEnum):
    """How a rank's part of a load ended, the worse the greater."""

    WELL = 0
    PASSED_OVER = 1  # its checkpoint is bad, and an older one may do
    VANISHED = 2
    STOPPED = 3


def agreed(ranks: Ranks, work: Callable[[], _T]) -> _T:
    """Does work at every rank, and has all of them raise the same where it fails at one.

    Of several errors the one counts that leaves the least to do: one that stops a search for the newest
    checkpoint, then one of a file that has vanished, then one of a file that is bad; then the lowest rank's.
    So no rank goes on to an older checkpoint while another stops.

    Args:
        ranks: which all call this.
        work: of this rank; it does not communicate.

    Returns:
        what the work returned.

    Raises:
        MarlinError: the work failed, here or with the number of the rank in front elsewhere.
        Exception: what else it raised here; the others then raise a RankError.
    """
    failed: Exception | None = None
    result: _T | None = None
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - raised again, here and at the other ranks
        failed = error
    try:
        worst, by = _worst(ranks, _end_of(failed))
        if worst is not _End.WELL:
            sent = ranks.told(as_sent(failed, ranks.rank) if by == ranks.rank and failed else None, by)
            if failed is None or by != ranks.rank:
                failed = sent
            del sent
            raise failed
    finally:
        del failed  # its frames would hold what was worked on
    return result  # type: ignore[return-value]


def check_same(ranks: Ranks, path: PathText, which: str = "") -> None:
    """Checks that all ranks are about to load the same: else they would silently load rank 0's.

    Args:
        ranks: which all call this.
        path: that this rank names; the same place has the same path at all.
        which: of the checkpoints there.

    Raises:
        RankError: another rank names something else.
    """
    if ranks.world_size == 1:
        return
    named = together(ranks, lambda: f"{which} of {absolute(path)}" if which else absolute(path))
    of_main = ranks.told(named)

    def compare() -> None:
        if named != of_main:
            what = f"this rank loads {named}, and rank 0 {of_main}"
            raise RankError(what, hint="to load a file of its own, a rank names it to marlin_ckpt.load")

    together(ranks, compare)


def _worst(ranks: Ranks, own: _End) -> tuple[_End, int]:
    """The worst end of all, and the lowest rank that had it."""
    world = ranks.world_size
    worst, rank = divmod(ranks.most(own * world + world - 1 - ranks.rank)[0], world)
    return _End(worst), world - 1 - rank


def _end_of(error: Exception | None) -> _End:
    if error is None:
        return _End.WELL
    if isinstance(error, CheckpointNotFoundError):
        return _End.VANISHED
    if isinstance(error, MarlinError) and is_passed_over(error):
        return _End.PASSED_OVER
    return _End.STOPPED


def newest_agreed(
    ranks: Ranks,
    candidates: Candidates,
    attempt: Callable[[Entry], _T],
    logger: logging.Logger,
    on_passed_over: OnPassedOver = lambda *_: None,
) -> _T | None:
    """Loads at all ranks the first of some checkpoints, newest first, that every one of them can load.

    Rank 0 lists and proposes; a checkpoint that one rank finds to be bad is passed over by all.

    Args:
        ranks: which all call this.
        candidates: as for `newest`; only called at rank 0.
        attempt: loads a checkpoint, at all ranks, and ends alike at all of them.
        logger: is told by rank 0 of each that is passed over, with the reason.
        on_passed_over: the same, at every rank.

    Returns:
        what `attempt` returned; None where there are no checkpoints.

    Raises:
        MarlinError: as `newest_loaded` does, at all ranks.
    """
    own = logger if ranks.is_main else _SILENT
    return newest_loaded(lambda: _told(ranks, candidates), attempt, own, on_passed_over)


def _told(ranks: Ranks, candidates: Candidates) -> Iterator[Entry]:
    """The candidates of rank 0, one after the other as they are asked for."""
    proposed: list[Iterator[Entry]] = []

    def following() -> Entry | None:
        if not proposed:
            proposed.append(iter(candidates()))
        return next(proposed[0], None)

    while (entry := told_by_main(ranks, following)) is not None:
        yield entry
