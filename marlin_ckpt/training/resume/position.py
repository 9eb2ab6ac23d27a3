"""Where within its epoch a run is, and the states of the random number generators there."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from marlin_ckpt.training.resume import rng
from marlin_ckpt.training.resume.order import Remaining

_logger = logging.getLogger(__name__)


class Position:
    """Follows a run through its epochs, and resumes it in the middle of one as if it had never stopped.

    The module and the loader draw random numbers at the beginning of an epoch, and draw them again when a run
    is resumed within it. So the generators' states at the beginning are kept beside the present ones.

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
        """The batches done of the present epoch; 0 between two epochs.

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
        """Takes over what `state` returned once; without it the run is between two epochs.

        Args:
            state: what `state` returned, or None.
            batches_completed: those of the whole run then.
        """
        self._began_batches = int(batches_completed)
        if state is None:
            return
        self._goes_on, self._held_rng, self._loaded_epoch = True, state["rng"], state.get("epoch")
        if self._loaded_epoch is not None:
            self._began_batches -= self._loaded_epoch["batches"]
            self._began_rng = self._loaded_epoch["rng"]

    def begin_epoch(self) -> None:
        """Restores the random numbers with which a resumed epoch began; keeps those of a new one."""
        if self._loaded_epoch is not None:
            if self._began_rng is not None:
                self.lost = rng.restore(self._began_rng)
            return
        self._restore_held()
        self._began_rng = rng.states()

    def _restore_held(self) -> None:
        if self._held_rng is not None:
            self.lost = rng.restore(self._held_rng)
            self._held_rng = None

    def open(self, loader: Any, *, seed: int, epoch: int, batches_completed: int) -> Remaining:
        """Begins to load the batches that are left, and restores the random numbers of the present position.

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
        self._restore_held()
        self._loaded_epoch = None
        return self._remaining

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A checkpoint made inside holds the generators' states from before: the numbers are drawn again."""
        self._held_rng = rng.states()
        yield
        self._held_rng = None

    def end_epoch(self, batches_completed: int) -> None:
        """Ends an epoch.

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
    what = "What the data loader's workers draw at random will not be what they would have drawn"
    _logger.warning("%s, since %s.", what, reason)
