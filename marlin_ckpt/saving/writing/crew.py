"""The ranks that save together."""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from marlin_ckpt.distributed.failures import together
from marlin_ckpt.distributed.ranks import DEFAULT_TIMEOUT_S, Ranks
from marlin_ckpt.errors import RankError

_T = TypeVar("_T")
_NUMBERS = 1 << 62  # `Ranks.most` compares 63 bits


class Crew:
    """The ranks of the default process group, or this process alone.

    They agree over one group on the thread that asks for saves, and over another on the one that writes.

    Attributes:
        is_together: whether the ranks of a process group save together, once there is one; None: not yet
            decided, and so each for itself.
        here: over the first.
        behind: over the second.
    """

    def __init__(self, *, is_together: bool | None = False) -> None:
        """Makes no group yet.

        Args:
            is_together: see `is_together`.
        """
        self.is_together = is_together
        self._group: Any = None
        self.here = self.behind = Ranks.alone()

    @property
    def is_alone(self) -> bool:
        """Whether this process saves by itself."""
        return self.here.world_size == 1

    def form(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
        """Takes the ranks that there are by now; all of them call this.

        Args:
            timeout_s: how long one waits for the others.

        Returns:
            whether they are new.

        Raises:
            RankError: another rank does not come.
        """
        if not self.is_together:
            return False
        group = dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
        if group is self._group and (group is None or timeout_s == self.here.timeout_s):
            return False
        self._group = group
        if group is None:
            self.here = self.behind = Ranks.alone()
            return False
        self.here, self.behind = Ranks(timeout_s), Ranks(timeout_s)
        return self.here.world_size > 1

    def meet(self, what: str) -> None:
        """Begins a save; groups that a save before has left broken at any rank are made anew.

        Args:
            what: is saved where; the same at all ranks.

        Raises:
            RankError: another rank saves something else, has ended, or does not come.
        """
        if self.is_alone:
            return
        number = _number(what)
        try:
            found = self.here.most(self.behind.is_broken, number, -number)
        except RankError:  # an earlier save may have ended well here, and not at another rank
            self.here.renew()
            found = self.here.most(self.behind.is_broken, number, -number)
        if found[0]:
            self.behind.renew()
        if found[1] != -found[2]:
            raise RankError(
                f"the ranks do not save the same: here it is {what}", hint="all ranks make the same calls"
            )

    def done(self, work: Callable[[], _T]) -> _T:
        """Does work on the thread that asks for saves; where it fails at one rank, it fails at all."""
        return work() if self.is_alone else together(self.here, work)


def _number(text: str) -> int:
    """A number that is the same in every process, as `hash` is not."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()) % _NUMBERS
