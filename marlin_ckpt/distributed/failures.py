"""A failure at one rank, raised at all of them, so that no rank goes on alone or waits for ever."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import MarlinError, RankError, drop_frames

_T = TypeVar("_T")
_Error = TypeVar("_Error", bound=BaseException)


def together(ranks: Ranks, work: Callable[[], _T]) -> _T:
    """Does work at every rank; where it fails at one, it fails at all.

    One number a rank is compared where all succeed, and the error of the lowest rank that failed is sent to
    the others, with the rank in front of its message. It is also raised at ranks that have failed otherwise,
    so that what depends on the error is decided alike.

    Args:
        ranks: which all call this.
        work: of this rank; it may not communicate unless all ranks take part whatever happens.

    Returns:
        what the work returned.

    Raises:
        MarlinError: the work failed here, or the same error with the number of the rank where it did.
        Exception: what else it raised here, if this is that rank; the others then raise a RankError.
    """
    failed: Exception | None = None
    result: _T | None = None
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - raised again, here and at the other ranks
        failed = error
    try:
        share(ranks, failed)
    finally:
        del failed  # its frames would hold what was worked on
    return result  # type: ignore[return-value]


def told_by_main(ranks: Ranks, work: Callable[[], _T]) -> _T:
    """Does work at rank 0 alone; all ranks get what it returned, or raise what it raised.

    Raises:
        MarlinError: the work failed at rank 0.
        Exception: what else it raised, at rank 0; the others then raise a RankError.
    """
    told: Any = None
    failed: Exception | None = None
    if ranks.is_main:
        try:
            told = [work()]
        except Exception as error:  # noqa: BLE001 - raised again, here and at the other ranks
            failed = error
            told = as_sent(error)
    try:
        told = ranks.told(told)
        if isinstance(told, MarlinError):
            failed, told = failed or told, None
        if failed is not None:
            raise of_all(failed)
    finally:
        del failed  # as above
    return told[0]  # type: ignore[no-any-return]


def share(ranks: Ranks, failed: Exception | None) -> None:
    """Raises at all ranks what one of them has failed with; does nothing where none has.

    Args:
        ranks: which all call this.
        failed: what this one has failed with; None: nothing.

    Raises:
        As `together` does.
    """
    error = first_of(ranks, failed)
    try:
        if error is None:
            return
        if error is failed:
            raise of_all(error)
        raise of_all(error) from failed
    finally:
        del error, failed  # as above: this frame is one of its


def first_of(ranks: Ranks, failed: _Error | None) -> _Error | MarlinError | None:
    """What the lowest rank that failed has failed with, so that all ranks do the same then.

    Args:
        ranks: which all call this.
        failed: what this one has failed with; None: nothing.

    Returns:
        the error, at the other ranks with the number of its rank in front; None where none has failed.
    """
    by = ranks.least(ranks.world_size if failed is None else ranks.rank)[0]
    if by == ranks.world_size:
        return None
    is_own = by == ranks.rank and failed is not None
    sent: MarlinError = ranks.told(as_sent(failed, ranks.rank) if is_own and failed else None, by)
    # What all have raised before, in work that they did together, they raise as it was.
    return failed if is_own or (_is_of_all(sent) and _is_of_all(failed)) else sent


def of_all(error: _Error) -> _Error:
    """Marks an error as one that all ranks raise, so that rank 0 prints it for all; returns it."""
    with contextlib.suppress(AttributeError):  # of a class with slots
        error.is_of_all_ranks = True  # type: ignore[attr-defined]
    return error


def _is_of_all(error: BaseException | None) -> bool:
    return getattr(error, "is_of_all_ranks", False)


def as_sent(error: BaseException, rank: int | None = None) -> MarlinError:
    """An error as the other ranks raise it; without a rank, what failed was done for all."""
    if isinstance(error, MarlinError):
        copy = _copied(error)
        if rank is not None and not _is_of_all(error):
            copy.what = f"rank {rank}: {error.what}"
            copy.args = (copy.what,)
        drop_frames(copy)
        return copy
    sent = RankError(f"rank {rank or 0}: {type(error).__name__}: {error}")
    sent.is_foreign = True
    return sent


def _copied(error: MarlinError) -> MarlinError:
    make, arguments, *_ = error.__reduce__()
    copy: MarlinError = make(*arguments)
    return copy
