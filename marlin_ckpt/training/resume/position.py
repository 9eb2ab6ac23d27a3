"""Where within its epoch a run is, and the random numbers that it goes on with from there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from marlin_ckpt.training.resume import rng
from marlin_ckpt.training.resume.order import Remaining

_logger = logging.getLogger(__name__)


class Position:
    """Follows a run through its epochs; goes on in the middle of one as if it had never stopped.

    What the module and the loader draw at an epoch's beginning they draw again when a run goes on within it,
    so the states from then are kept beside those from now.

    Attributes:
        lost: what could not be restored, a sentence each.
    """

    def __init__(self) -> None:
        self.lost: list[str] = []
        self._began_batches = 0  # of the run, when the epoch began
        self._began_rng: Mapping[str, Any] | None = None
        self._held_rng: Mapping[str, Any] | None = None  # what counts until training goes on
        self._loaded_epoch: Mapping[str, Any] | None = None
        self._remaining: Remaining | None = None
        self._goes_on = False

    def batches(self, batches_completed: int) -> int:
        """The batches that the epoch under way has done; 0 at an epoch's border.

        Args:
            batches_completed: those of the whole run.
        """
        return int(batches_completed) - self._began_batches

    def state(self, batches_completed: int) -> dict[str, Any]:
        """What a checkpoint keeps.

        Args:
            batches_completed: those of the whole run.
        """
        state: dict[str, Any] = {"rng": rng.states() if self._held_rng is None else self._held_rng}
        if batches := self.batches(batches_completed):
            loader = None if self._remaining is None else self._remaining.state()
            if self._loaded_epoch is not None and self._remaining is None:
                loader = self._loaded_epoch["loader"]
            state["epoch"] = {"batches": batches, "rng": self._began_rng, "loader": loader}
        return state

    def load(self, state: Mapping[str, Any] | None, batches_completed: int) -> None:
        """Takes over what `state` returned once; without it begins at an epoch's border.

        Args:
            state: that, or None.
            batches_completed: those of the whole run then.
        """
        self._began_batches = int(batches_completed)
        if state is None:
            return
        self._goes_on = True
        self._held_rng = state["rng"]
        self._loaded_epoch = state.get("epoch")
        if self._loaded_epoch is not None:
            self._began_batches -= self._loaded_epoch["batches"]
            self._began_rng = self._loaded_epoch["rng"]

    def begin_epoch(self) -> None:
        """Restores the random numbers that the epoch began with, if it began before."""
        if self._loaded_epoch is not None:
            if self._began_rng is not None:
                self.lost = rng.restore(self._began_rng)
            return
        if self._held_rng is not None:
            self.lost = rng.restore(self._held_rng)
            self._held_rng = None
        self._began_rng = rng.states()

    def open(self, loader: Any, *, seed: int, epoch: int, batches_completed: int) -> Remaining:
        """Begins to load the epoch's batches that are left, and goes on with the random numbers from there.

        Args:
            loader: of all the epoch's batches.
            seed: of the run's data.
            epoch: from 0.
            batches_completed: those of the whole run.
        """
        state = None if self._loaded_epoch is None else self._loaded_epoch["loader"]
        done = self.batches(batches_completed)
        if self._goes_on:
            self._goes_on = False
            _warn_of_workers(loader)
        self._remaining = Remaining(loader, seed=seed, epoch=epoch, done=done, state=state)
        if self._held_rng is not None:
            self.lost = rng.restore(self._held_rng)
            self._held_rng = None
        self._loaded_epoch = None
        return self._remaining

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is drawn inside does not count for a checkpoint made there: it will be drawn again."""
        self._held_rng = rng.states()
        yield
        self._held_rng = None

    def end_epoch(self, batches_completed: int) -> None:
        """Comes to an epoch's border.

        Args:
            batches_completed: those of the whole run.
        """
        self._began_batches = int(batches_completed)
        self._began_rng = self._remaining = None


def _warn_of_workers(loader: Any) -> None:
    if not getattr(loader, "num_workers", None):
        return
    if hasattr(loader, "load_state_dict"):
        reason = "it restores them itself"
    elif getattr(loader, "persistent_workers", None):
        reason = "it keeps them from one epoch to the next (persistent_workers)"
    else:
        return
    _logger.warning(
        "What the data loader's workers draw at random will not be what they would have drawn, since %s.",
        reason,
    )
