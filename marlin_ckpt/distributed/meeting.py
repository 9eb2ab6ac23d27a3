"""Where ranks meet to make a group: in the store in which they first found each other.

Rank 0 opens a meeting under a name that was never used, the others come to the one that is open, and it
begins when all are there. So they meet again after one of them was stopped for so long that the others have
tried it more often: nothing that each rank counts for itself has to be the same at all of them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist

from marlin_ckpt.distributed import roll_call
from marlin_ckpt.distributed.roll_call import Absent, RollCall
from marlin_ckpt.errors import RankError
from marlin_ckpt.escaping import get_logger

_logger = get_logger(__name__)
_OPEN, _NONE = "open", "-"  # the key of the meeting that is open, and what it has where none is
_FIRST_POLL_S, _LONGEST_POLL_S = 0.001, 0.2
HINT = "the log of the rank that failed first says why"


class Group(NamedTuple):
    """A group that all ranks have made.

    Attributes:
        name: that no other group of the run has.
        backend: of torch, by which they communicate.
    """

    name: str
    backend: Any


def meet(rank: int, world_size: int, timeout_s: float) -> Group:
    """Makes a group of gloo with all other ranks, which call this too.

    Args:
        rank: of this process.
        world_size: the number of ranks.
        timeout_s: how long it waits for the others, and then each collective of the group, in seconds.

    Raises:
        RankError: another rank has ended, or has not come in time.
    """
    try:
        store = roll_call.store()
        roll_call.note(store, rank)
        name = _joined(store, rank, timeout_s) if rank else _opened(store, world_size, timeout_s)
    except RuntimeError as error:  # the store has gone
        raise RankError(roll_call.without_store().in_words(timeout_s), hint=HINT) from error
    where = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
    backend: Any = None
    try:
        backend = dist.ProcessGroupGloo(where, rank, world_size, timedelta(seconds=timeout_s))
        # One that goes on and ends while others are still being connected would end them, too.
        backend.barrier().wait()
    except RuntimeError as error:  # a rank that had come has gone, and others may have left because of that
        backend = None  # its end shows those that still use it that it has failed
        absent = roll_call.missing(name, rank, world_size, min(roll_call.PATIENCE_S, timeout_s))
        raise RankError(absent.in_words(timeout_s), hint=HINT) from error
    return Group(name, backend)


def _opened(store: Any, world_size: int, timeout_s: float) -> str:
    """Opens a meeting, and returns its name when all have come."""
    _check_not_failed(store, _now_open(store))
    name = secrets.token_hex(8)
    store.set(_OPEN, name)
    calling, absent = RollCall(store, range(1, world_size)), Absent([])
    patience = _Patience(timeout_s, lambda: absent)
    while patience.lasts():
        absent = calling.absent(name)
        if not absent.ranks:
            store.set(_OPEN, _NONE)  # before it begins: a rank that goes on to the next one comes not twice
            store.set(f"{name}/begins", "")
            return name
        if absent.have_ended:
            break
    what = absent.in_words(timeout_s)
    store.set(f"{name}/failed", what)
    if not absent.have_ended:  # else it has failed for those, too, who come later
        store.set(_OPEN, _NONE)
    raise RankError(what, hint=HINT)


def _joined(store: Any, rank: int, timeout_s: float) -> str:
    """Comes to the meeting that rank 0 opens, and returns its name when it begins."""
    name = _NONE
    calling, absent = RollCall(store, [0]), Absent([0])
    # One of those that wait says so.
    patience = _Patience(timeout_s, lambda: absent if rank == 1 and name == _NONE else None)
    while patience.lasts():
        now = _now_open(store)
        if now not in (_NONE, name):
            name = now
            store.set(f"{name}/{rank}", "")
            patience = _Patience(timeout_s + roll_call.PATIENCE_S)  # as rank 0 has from now on
        absent = calling.absent(name)
        if store.check([f"{name}/begins"]):
            return name
        _check_not_failed(store, name)
        if absent.have_ended:
            break
    raise RankError(absent.in_words(timeout_s), hint=HINT)


def _now_open(store: Any) -> str:
    return store.get(_OPEN).decode() if store.check([_OPEN]) else _NONE


def _check_not_failed(store: Any, name: str) -> None:
    """Raises what rank 0 has given a meeting up for."""
    if store.check([f"{name}/failed"]):
        raise RankError(store.get(f"{name}/failed").decode(), hint=HINT)


class _Patience:
    """Looks again and again until a time is over, after longer and longer pauses; says if that is long."""

    def __init__(self, seconds: float, awaited: Callable[[], Absent | None] = lambda: None) -> None:
        self._seconds, self._awaited = seconds, awaited
        self._began = time.monotonic()
        self._pause = 0.0
        self._is_silent = False

    def lasts(self) -> bool:
        """Pauses, but for the first time; returns whether to look once more."""
        if not self._pause:
            self._pause = _FIRST_POLL_S
            return True
        waited_s = time.monotonic() - self._began
        if waited_s > self._seconds:
            return False
        if waited_s > roll_call.PATIENCE_S and not self._is_silent and (absent := self._awaited()):
            self._is_silent = True
            _logger.warning("Waiting for %s, up to %g s.", absent.names, self._seconds)
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_POLL_S)
        return True
