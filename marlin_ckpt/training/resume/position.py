"""Where within its epoch a run is, and the states of the random number generators there."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from marlin_ckpt.training.resume import loaders, rng
from marlin_ckpt.training.resume.conditions import differences
from marlin_ckpt.training.resume.order import ALL, Remaining, Share


class Position:
    """Follows a run through its epochs, and resumes it in the middle of one as if it had never stopped.

    The module and the loader draw random numbers at the beginning of an epoch, and draw them again when a run
    is resumed within it. So the generators' states at the beginning are kept beside the present ones.

    Attributes:
        lost: why the run that goes on is not the same run, a sentence each.
        data: the conditions of the training data, as far as they are known and stay the same.
    """

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.data: dict[str, Any] = {}
        self._varies: set[str] = set()  # conditions of the data that a new epoch may change
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
            of_data = {} if self._remaining is None else self._remaining.state(batches)
            state["epoch"] = self._loaded_epoch or {"batches": batches, "rng": self._began_rng, **of_data}
        return state

    def load(
        self,
        state: Mapping[str, Any] | None,
        batches_completed: int,
        conditions: Mapping[str, Any] | None = None,
        in_batches_of: int = 0,
    ) -> None:
        """Takes over what `state` returned once; without it the run is between two epochs.

        Args:
            state: what `state` returned, or None.
            batches_completed: those of the whole run then.
            conditions: of the run then, as far as they are known.
            in_batches_of: so many samples the position counts where it is not in samples, as in files by
                version 0.1; 0: that is not known.
        """
        self._began_batches = int(batches_completed)
        self.data = loaders.among(conditions or {})
        if state is None:
            return
        self._goes_on, self._held_rng, self._loaded_epoch = True, state["rng"], state.get("epoch")
        if self._loaded_epoch is not None:
            self._began_batches -= self._loaded_epoch["batches"]
            self._began_rng = self._loaded_epoch["rng"]
            if in_batches_of:
                self._loaded_epoch = {"batch_size": in_batches_of, **self._loaded_epoch}

    def pause(self, batches_completed: int) -> None:
        """Training has stopped here; when it goes on, it resumes as it would from a checkpoint.

        Args:
            batches_completed: those of the whole run.
        """
        self.load(self.state(batches_completed), batches_completed, self.data)
        self._remaining = None

    def begin_epoch(self) -> None:
        """Restores the random numbers with which a resumed epoch began; keeps those of a new one."""
        self.lost = []
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

    def _loaded_in_samples(self, loader: Any, batch_size: int) -> Mapping[str, Any] | None:
        """What was loaded of the epoch; a position in batches becomes one in samples.

        It stays where the module makes batches of another size than it is asked for, as it may have then.
        """
        saved = self._loaded_epoch
        if saved is None or "samples" in saved:
            return saved
        left = {name: value for name, value in saved.items() if name != "batch_size"}
        if (size := saved.get("batch_size")) and loaders.batch_size(loader) == batch_size:
            left |= {"batch_size": size, "samples": saved["batches"] * size}
        return left

    def open(  # noqa: PLR0913 - all but the first are names
        self,
        loader: Any,
        *,
        seed: int,
        epoch: int,
        batches_completed: int,
        batch_size: int,
        share: Share = ALL,
    ) -> Remaining:
        """Begins to load the batches that are left, and restores the random numbers of the present position.

        Args:
            loader: of all the epoch's batches.
            seed: of the run's data.
            epoch: from 0.
            batches_completed: those of the whole run.
            batch_size: that the loader was asked for.
            share: whose batches these are.
        """
        now, done = loaders.conditions(loader), self.batches(batches_completed)
        changed = differences(self.data, now)
        saved = self._loaded_in_samples(loader, batch_size)
        self._remaining = Remaining(loader, seed=seed, epoch=epoch, done=done, saved=saved, share=share)
        self._restore_held()
        if self._goes_on:
            self._goes_on = False
            self.lost += map(str, changed)
            self.lost += loaders.losses(loader, within=self._loaded_epoch is not None) + self._remaining.lost
        else:
            self._varies |= {one.name for one in changed}
        self.data, self._loaded_epoch = now, None
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
        self.data = {name: value for name, value in self.data.items() if name not in self._varies}
