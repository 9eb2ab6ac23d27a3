"""Which ranks still answer after a collective has failed, so that the error can name those that do not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist

from marlin_ckpt.distributed import processes

# The others fail at about the same time, unless they are busy with their own part: those count as missing.
PATIENCE_S = 5.0
_STORE_S = 10.0  # for one answer of the store itself
_POLL_S = 0.02


class Absent(NamedTuple):
    """Ranks that do not answer.

    Attributes:
        ranks: their numbers.
        have_ended: whether their processes are known to have ended.
        is_known: whether the store, which knows them, has answered.
    """

    ranks: list[int]
    have_ended: bool = False
    is_known: bool = True

    def in_words(self, timeout_s: float) -> str:
        """What is known of them, for a message.

        Args:
            timeout_s: for how long they were waited for, in seconds.
        """
        has = "have" if len(self.ranks) > 1 else "has"
        ended = f"{self.names} {has} ended"
        return ended if self.have_ended else f"{ended}, or did not answer within {timeout_s:g} s"

    @property
    def names(self) -> str:
        """Who they are, for a message."""
        if not self.ranks:
            return "another rank"
        *first, last = map(str, self.ranks)
        return f"the ranks {', '.join(first)} and {last}" if first else f"rank {last}"


class RollCall:
    """Looks for the ranks of a run, one time after the other.

    Args:
        store: in which they have been `noted`.
        ranks: that are looked for.
    """

    def __init__(self, store: Any, ranks: Iterable[int]) -> None:
        self._store = store
        self._ranks = list(ranks)

    def absent(self, prefix: str) -> Absent:
        """Those of which there is no key with this prefix; of these those that have ended, if any have."""
        self._ranks = self._without_key(prefix, self._ranks)
        ended = [one for one in self._ranks if processes.has_ended(self._process(one))]
        ended = self._without_key(prefix, ended)  # some may have come meanwhile, and left
        return Absent(ended, have_ended=True) if ended else Absent([*self._ranks])

    def _without_key(self, prefix: str, ranks: Iterable[int]) -> list[int]:
        return [one for one in ranks if not self._store.check([f"{prefix}/{one}"])]

    def _process(self, rank: int) -> bytes:
        if rank not in _known:
            key = _process_key(rank)
            if not self._store.check([key]):
                return b""
            _known[rank] = self._store.get(key)
        return _known[rank]


def note(store: Any, rank: int) -> None:
    """Notes in the store which process this rank is."""
    store.set(_process_key(rank), processes.own())


_made: list[tuple[Any, int, Any]] = []  # the store of the default process group, this process, and our own
_known: dict[int, bytes] = {}  # the processes of the ranks that were looked for


def store() -> Any:
    """The store in which the ranks of the default process group first met, under a prefix of our own.

    It is connected once, while its server lives: to one that has gone torch tries it again for minutes.
    """
    default: Any = dist.distributed_c10d._get_default_store()  # noqa: SLF001 - there is no other way
    if not _made or _made[0][0] is not default or _made[0][1] != os.getpid():
        own = dist.PrefixStore("marlin-ckpt", default.clone())  # type: ignore[attr-defined]
        own.set_timeout(timedelta(seconds=_STORE_S))
        _made[:] = [(default, os.getpid(), own)]
        _known.clear()
    return _made[0][2]


def missing(group: str, rank: int, world_size: int, patience_s: float = PATIENCE_S) -> Absent:
    """Answers for this rank, and waits for the answers of the others.

    It goes by the store in which the ranks first met, and not by a group, which one that is missing breaks.

    Args:
        group: the name of the group that has failed; each has one roll call.
        rank: of this process.
        world_size: the number of ranks.
        patience_s: for how long, in seconds; where a rank is known to have ended, no longer.

    Returns:
        the ranks that have not answered.
    """
    try:
        where = store()
        where.set(f"{group}/failed/{rank}", b"1")
        calling = RollCall(where, (one for one in range(world_size) if one != rank))
        deadline = time.monotonic() + patience_s
        while True:
            absent = calling.absent(f"{group}/failed")
            if not absent.ranks or absent.have_ended or time.monotonic() > deadline:
                return absent
            time.sleep(_POLL_S)
    except RuntimeError:  # its server has gone, with rank 0 or with torchrun
        return without_store()


def without_store() -> Absent:
    """The ranks that are missing as far as that is known where the store does not answer."""
    ended = [one for one, process in _known.items() if processes.has_ended(process)]
    return Absent(ended, have_ended=True) if ended else Absent([], is_known=False)


def _process_key(rank: int) -> str:
    return f"process/{rank}"
