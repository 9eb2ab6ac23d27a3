"""The processes of a run on many ranks: which one this is, and what all of them agree on."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from marlin_ckpt.distributed import roll_call
from marlin_ckpt.distributed.meeting import HINT, Group, meet
from marlin_ckpt.errors import RankError, Translating

# gloo's own limit is 30 minutes, after which nobody knows any more what has happened.
DEFAULT_TIMEOUT_S = 600.0
# What is told goes around with its length in front, and is hardly ever longer. A second round would take
# 0.3 ms, and where other threads are awake one in ten takes 3 ms (measured with two ranks on two cores).
_AT_ONCE_BYTES = 512
_LENGTH = struct.Struct("<Q")


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
        self._broken_by = ""
        self._group = Group("", None)
        self.renew()

    @classmethod
    def alone(cls) -> Ranks:
        """One rank that communicates with no other, whatever process groups there are."""
        one = cls.__new__(cls)
        one.rank, one.world_size, one.timeout_s, one.is_broken = 0, 1, DEFAULT_TIMEOUT_S, False
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
            self.is_broken = True
            self._group = Group("", None)  # its end shows those that still use it that it has failed
            try:
                self._group = meet(self.rank, self.world_size, self.timeout_s)
            except RankError as error:
                self._broken_by = error.what
                raise
        self.is_broken = False

    def mend(self) -> None:
        """Makes a new group where this one has failed at any rank; all ranks call this.

        Raises:
            RankError: as `renew`.
        """
        try:
            self.meet()
        except RankError:  # here, or at a rank that has left the old group since
            self.renew()

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
        self._reduce(found, dist.ReduceOp.SUM)
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
        sent = _LENGTH.pack(len(data)) + data
        told = self._broadcast(sent[:_AT_ONCE_BYTES].ljust(_AT_ONCE_BYTES, b"\0"), by)
        end = _LENGTH.size + _LENGTH.unpack_from(told)[0]
        if end > _AT_ONCE_BYTES:
            told += self._broadcast(sent[_AT_ONCE_BYTES:] or bytes(end - _AT_ONCE_BYTES), by)
        return value if self.rank == by else pickle.loads(told[_LENGTH.size : end])  # noqa: S301 - of our own run

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
        sizes = self._lengths(data)
        found = self._gathered(data.ljust(max(*sizes, 1), b"\0"))
        return found and [one[:size] for one, size in zip(found, sizes, strict=True)]

    def _gathered(self, data: bytes) -> list[bytes] | None:
        sent = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        found = [torch.empty_like(sent) for _ in range(self.world_size)] if self.is_main else None
        options = dist.GatherOptions()
        options.rootRank = 0
        self._together(lambda group: group.gather([] if found is None else [found], [sent], options))
        return None if found is None else [one.numpy().tobytes() for one in found]

    def exchanged(self, data: bytes) -> list[bytes]:
        """The bytes of each rank, in their order, at all ranks."""
        if self.world_size == 1:
            return [data]
        sizes = self._lengths(data)
        sent = torch.frombuffer(bytearray(data.ljust(max(*sizes, 1), b"\0")), dtype=torch.uint8)
        found = self._of_all(sent)
        return [one.numpy().tobytes()[:size] for one, size in zip(found, sizes, strict=True)]

    def send(self, tensor: torch.Tensor, to: int) -> None:
        """Sends a tensor of the processor's memory to one rank, which calls `receive`."""
        self._together(lambda group: group.send([tensor], to, 0))

    def receive(self, tensor: torch.Tensor, by: int) -> None:
        """Fills a tensor of the same length with what one rank sends."""
        self._together(lambda group: group.recv([tensor], by, 0))

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
        self._reduce(found, by)
        reduced: list[int] = found.tolist()
        return reduced

    def _reduce(self, tensor: torch.Tensor, by: Any) -> None:
        options = dist.AllreduceOptions()
        options.reduceOp = by
        self._together(lambda group: group.allreduce([tensor], options))

    def _broadcast(self, data: bytes, by: int) -> bytearray:
        """What one rank has; the others give as many bytes, whatever these are."""
        found = bytearray(data)
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = by, 0
        sent = torch.frombuffer(found, dtype=torch.uint8)
        self._together(lambda group: group.broadcast([sent], options))
        return found

    def _of_all(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.world_size)]
        self._together(lambda group: group.allgather([found], [tensor]))
        return found

    def _lengths(self, data: bytes) -> list[int]:
        return [int(one) for one in self._of_all(torch.tensor([len(data)]))]

    def _together(self, begin: Callable[[Any], Any]) -> None:
        """Makes a collective.

        Args:
            begin: begins it, with torch's group of gloo.

        Raises:
            RankError: another rank has ended, or has not come in time; also where an earlier one has failed
                so, since only `renew` helps.
        """
        if self.is_broken:
            raise RankError(self._broken_by, hint=HINT)
        with Translating(self._name):
            begin(self._group.backend).wait()

    def communicating(self) -> Translating:
        """A context in which collectives of others, such as those of a backward pass, fail as those here do.

        What fails otherwise, and what fails though all ranks answer, passes through.
        """

        def translate(error: Exception) -> None:
            if self.world_size > 1 and _is_of_communication(error):
                absent = self._absent()
                if absent.ranks or not absent.is_known:
                    self._fail(absent, error)

        return Translating(translate)

    def _name(self, error: Exception) -> None:
        """Names in the error the ranks that do not answer."""
        if isinstance(error, RuntimeError):
            self._fail(self._absent(), error)

    def _absent(self) -> roll_call.Absent:
        patience_s = min(roll_call.PATIENCE_S, self.timeout_s)
        return roll_call.missing(self._group.name, self.rank, self.world_size, patience_s)

    def _fail(self, absent: roll_call.Absent, error: Exception) -> NoReturn:
        self.is_broken = True
        self._broken_by = absent.in_words(self.timeout_s)
        raise RankError(self._broken_by, hint=HINT) from error


def _is_of_communication(error: Exception) -> bool:
    """Whether an error comes from torch's communication; gloo's have no class, but name its source files."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


_TO_LOAD = "all ranks load a directory or a sharded checkpoint together; if one has failed, its log says why"
_shared: list[tuple[Any, Ranks]] = []  # of the default process group, one at most


def shared() -> Ranks:
    """The ranks of the default process group, the same ones as long as that lasts; all call this to load.

    Raises:
        RankError: another rank has ended, or does not come.
    """
    group = dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
    try:
        if not _shared or _shared[0][0] is not group:
            _shared[:] = [(group, Ranks())]
        else:
            _shared[0][1].mend()
    except RankError as error:
        error.hint = _TO_LOAD
        raise
    return _shared[0][1]
