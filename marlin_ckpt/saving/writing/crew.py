"""The ranks that save together."""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from marlin_ckpt.distributed import commit
from marlin_ckpt.distributed.failures import first_of, together
from marlin_ckpt.distributed.ranks import DEFAULT_TIMEOUT_S, Ranks
from marlin_ckpt.errors import RankError
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.paths import absolute
from marlin_ckpt.urls import is_url

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
        self._shared: set[str] = set()
        self.here = self.behind = Ranks.alone()

    @property
    def is_alone(self) -> bool:
        """Whether this process saves by itself."""
        return self.here.world_size == 1

    def form(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
        """Takes the ranks that there are by now, and lets them agree again after a failure; all call this.

        Args:
            timeout_s: how long one waits for the others.

        Returns:
            whether they are new.

        Raises:
            RankError: another rank has ended, or does not come.
        """
        if not self.is_together:
            return False
        group = dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
        if group is self._group and (group is None or timeout_s == self.here.timeout_s):
            self.here.mend()
            return False
        here, behind = (Ranks.alone(),) * 2 if group is None else (Ranks(timeout_s), Ranks(timeout_s))
        self.here, self.behind, self._group = here, behind, group
        return not self.is_alone

    def meet(self, what: str, earlier: BaseException | None) -> BaseException | None:
        """Begins a save, once the one before it has ended; a group that this has left broken is made anew.

        Args:
            what: is saved where; the same at all ranks.
            earlier: what the save before has failed with in the background at this rank; None: nothing.

        Returns:
            what it has failed with at any rank, so that all raise it.

        Raises:
            RankError: another rank saves something else, has ended, or does not come.
        """
        if self.is_alone:
            return earlier
        number = _number(what)
        facts = earlier is not None, self.behind.is_broken, number, -number
        has_failed, is_broken, greatest, least = self.here.most(*facts)
        if is_broken:
            self.behind.renew()
        if greatest != -least:
            raise RankError(
                f"the ranks do not save the same: here it is {what}", hint="all ranks make the same calls"
            )
        return first_of(self.here, earlier) if has_failed else None

    def check_shared(self, directory: PathText) -> None:
        """Checks, once for each directory, that all ranks see the same; all of them call this.

        Raises:
            StorageError: one of them does not, or it cannot be written to.
            RankError: a rank has ended, or does not come.
        """
        path = absolute(directory)
        if self.is_alone or is_url(path) or path in self._shared:
            return
        commit.check_shared(path, self.here, commit.PATIENCE_S)
        self._shared.add(path)

    def done(self, work: Callable[[], _T]) -> _T:
        """Does work on the thread that asks for saves; where it fails at one rank, it fails at all."""
        return work() if self.is_alone else together(self.here, work)


def _number(text: str) -> int:
    """A number that is the same in every process, as `hash` is not."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()) % _NUMBERS
