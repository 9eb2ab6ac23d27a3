"""The processes of a run on many ranks: which one this is, and what all of them agree on."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from marlin_ckpt.distributed import roll_call
from marlin_ckpt.errors import RankError, Translating

# gloo's own limit is 30 minutes, after which nobody knows any more what has happened.
DEFAULT_TIMEOUT_S = 600.0


class Ranks:
    """The ranks of a run, and a group of their own over which they agree.

    Every method but `renew` is a collective: all ranks call it, in the same order, from one thread at a time.
    Saves in the background need a `Ranks` of their own. With one rank no method communicates.

    The group is of gloo, also where the training uses NCCL: what is agreed on lies in the processor's memory,
    and gloo notices a rank that has died at once, NCCL after its timeout.

    Attributes:
        rank: of this process, from 0.
        world_size: the number of ranks.
        timeout_s: how long a collective waits for the other ranks, in seconds.
        is_broken: whether a collective has failed, after which only `renew` helps.
    """

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Takes the ranks of the default process group; makes a new group, so that all ranks must call this.

        Args:
            timeout_s: see `timeout_s`.
        """
        is_many = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if is_many else 0
        self.world_size = dist.get_world_size() if is_many else 1
        self.timeout_s = timeout_s
        self.is_broken = False
        self._group: dist.ProcessGroup | None = None
        self._name = ""
        self.renew()

    @classmethod
    def alone(cls) -> Ranks:
        """One rank that communicates with no other, whatever process groups there are."""
        one = cls.__new__(cls)
        one.rank, one.world_size, one.timeout_s, one.is_broken = 0, 1, DEFAULT_TIMEOUT_S, False
        one._group = None  # noqa: SLF001 - its own
        return one

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which decides and talks for all."""
        return self.rank == 0

    def renew(self) -> None:
        """Abandons the group, and makes a new one; all ranks call this.

        Raises:
            RankError: another rank has ended, or has not come in time.
        """
        if self.world_size > 1:
            limit = timedelta(seconds=self.timeout_s)
            with self._naming(f"{self._name}/next"):
                self._group = dist.new_group(backend="gloo", timeout=limit)
            self._name = self._group.group_name
        self.is_broken = False

    def most(self, *numbers: int) -> list[int]:
        """The greatest of each of some numbers over all ranks."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def least(self, *numbers: int) -> list[int]:
        """The smallest of each of some numbers over all ranks."""
        return self._reduced(numbers, dist.ReduceOp.MIN)

    def total(self, *numbers: float) -> list[float]:
        """The sum of each of some numbers over all ranks, in float64."""
        if self.world_size == 1:
            return list(numbers)
        found = torch.tensor(numbers, dtype=torch.float64)
        self._together(lambda: dist.all_reduce(found, dist.ReduceOp.SUM, group=self._group))
        summed: list[float] = found.tolist()
        return summed

    def are_alike(self, *numbers: int) -> bool:
        """Whether all ranks call this with the same numbers, of 63 bits each."""
        found = self.most(*numbers, *(-one for one in numbers))
        return found == [*numbers, *(-one for one in numbers)] if self.world_size == 1 else self._alike(found)

    def told(self, value: Any = None, by: int = 0) -> Any:
        """What one rank has; the argument of all others is ignored.

        Args:
            value: anything that can be pickled, and is small.
            by: the rank that has it.
        """
        if self.world_size == 1:
            return value
        data = pickle.dumps(value) if self.rank == by else b""
        size = torch.tensor([len(data)])
        self._together(lambda: dist.broadcast(size, by, group=self._group))
        sent = torch.frombuffer(bytearray(data or bytes(int(size))), dtype=torch.uint8)
        self._together(lambda: dist.broadcast(sent, by, group=self._group))
        return value if self.rank == by else pickle.loads(sent.numpy().tobytes())  # noqa: S301 - of our own run

    def gathered(self, data: bytes, *, is_fixed: bool = False) -> list[bytes] | None:
        """The bytes of each rank, in their order, at rank 0; None at the others.

        Args:
            data: of this rank.
            is_fixed: whether it has the same length at all ranks, which then is not sent around.
        """
        if self.world_size == 1:
            return [data]
        if is_fixed:
            return self._gathered(data)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        own = torch.tensor([len(data)])
        self._together(lambda: dist.all_gather(sizes, own, group=self._group))
        longest = max(map(int, sizes))
        found = self._gathered(data.ljust(max(longest, 1), b"\0"))
        return found and [one[: int(size)] for one, size in zip(found, sizes, strict=True)]

    def _gathered(self, data: bytes) -> list[bytes] | None:
        sent = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        found = [torch.empty_like(sent) for _ in range(self.world_size)] if self.is_main else None
        self._together(lambda: dist.gather(sent, found, 0, group=self._group))
        return None if found is None else [one.numpy().tobytes() for one in found]

    def exchanged(self, data: bytes) -> list[bytes]:
        """The bytes of each rank, in their order, at all ranks."""
        if self.world_size == 1:
            return [data]
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        own = torch.tensor([len(data)])
        self._together(lambda: dist.all_gather(sizes, own, group=self._group))
        longest = max(map(int, sizes))
        sent = torch.frombuffer(bytearray(data.ljust(max(longest, 1), b"\0")), dtype=torch.uint8)
        found = [torch.empty_like(sent) for _ in range(self.world_size)]
        self._together(lambda: dist.all_gather(found, sent, group=self._group))
        return [one.numpy().tobytes()[: int(size)] for one, size in zip(found, sizes, strict=True)]

    def send(self, tensor: torch.Tensor, to: int) -> None:
        """Sends a tensor of the processor's memory to one rank, which calls `receive`."""
        self._together(lambda: dist.send(tensor, to, group=self._group))

    def receive(self, tensor: torch.Tensor, by: int) -> None:
        """Fills a tensor of the same length with what one rank sends."""
        self._together(lambda: dist.recv(tensor, by, group=self._group))

    def meet(self) -> None:
        """Returns when all ranks have called this."""
        self.most(0)

    def _alike(self, found: Sequence[int]) -> bool:
        half = len(found) // 2
        return all(most == -least for most, least in zip(found[:half], found[half:], strict=True))

    def _reduced(self, numbers: Sequence[int], by: Any) -> list[int]:
        if self.world_size == 1:
            return list(numbers)
        found = torch.tensor(numbers, dtype=torch.int64)
        self._together(lambda: dist.all_reduce(found, by, group=self._group))
        reduced: list[int] = found.tolist()
        return reduced

    def _together(self, collective: Any) -> None:
        """Makes a collective.

        Raises:
            RankError: another rank has died, or has not come in time.
        """
        if self.is_broken:
            raise RankError("an earlier call has failed, and no new group was made")
        with self._naming(self._name):
            collective()

    def _naming(self, group: str) -> Translating:
        """Names in the error the ranks that do not answer, where what is done with a group fails."""

        def translate(error: Exception) -> None:
            if not isinstance(error, RuntimeError):
                return
            self.is_broken = True
            patience_s = min(roll_call.PATIENCE_S, self.timeout_s)
            absent = roll_call.missing(group, self.rank, self.world_size, patience_s)
            what = roll_call.in_words(absent, self.timeout_s)
            raise RankError(what, hint="the log of the rank that failed first says why") from error

        return Translating(translate)


_shared: list[tuple[Any, Ranks]] = []  # of the default process group, one at most


def shared() -> Ranks:
    """The ranks of the default process group, the same ones as long as that lasts; all ranks call this."""
    group = dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
    if not _shared or _shared[0][0] is not group:
        _shared[:] = [(group, Ranks())]
    elif _shared[0][1].is_broken:
        _shared[0][1].renew()
    return _shared[0][1]
