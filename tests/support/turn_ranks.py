"""Ranks that are threads of one process, of which one runs at a time: what they do has one order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist

from marlin_ckpt.distributed.ranks import Ranks

_PATIENCE_S = 60.0


class _Turns:
    """Lets each rank run until its next collective, one after the other."""

    def __init__(self, world_size: int) -> None:
        self.given: list[Any] = [None] * world_size
        self._changed = threading.Condition()
        self._next = 0

    def wait(self, rank: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._next == rank, _PATIENCE_S)

    def pass_on(self) -> None:
        with self._changed:
            self._next = (self._next + 1) % len(self.given)
            self._changed.notify_all()


class TurnRanks(Ranks):
    """One of the ranks."""

    def __init__(self, rank: int, turns: _Turns) -> None:
        self.rank, self.world_size, self.timeout_s, self.is_broken = rank, len(turns.given), 60.0, False
        self._turns = turns

    def exchanged(self, data: Any) -> list[Any]:
        turns = self._turns
        turns.given[self.rank] = data
        turns.pass_on()
        turns.wait(self.rank)  # all have given theirs
        found = [*turns.given]
        turns.pass_on()
        turns.wait(self.rank)  # all have taken them
        return found

    def told(self, value: Any = None, by: int = 0) -> Any:
        return self.exchanged(value)[by]

    def gathered(self, data: bytes, *, is_fixed: bool = False) -> list[bytes] | None:
        del is_fixed
        found = self.exchanged(data)
        return found if self.is_main else None

    def _reduced(self, numbers: Sequence[int], by: Any) -> list[int]:
        reduce = {dist.ReduceOp.MAX: max, dist.ReduceOp.MIN: min}[by]
        return [reduce(each) for each in zip(*self.exchanged(numbers), strict=True)]


def run(world_size: int, work: Callable[[Ranks], Any]) -> None:
    """Has each rank do work."""
    turns = _Turns(world_size)
    failed: list[BaseException] = []

    def be(rank: int) -> None:
        turns.wait(rank)
        try:
            work(TurnRanks(rank, turns))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            failed.append(error)
        turns.pass_on()

    threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(world_size)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if failed:
        raise failed[0]
