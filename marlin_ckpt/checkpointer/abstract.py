"""The interface that a trainer saves and loads through; PyMarlin's."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.optim import Optimizer

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.reports import SaveReport


class AbstractCheckpointer(ABC):
    """Decides when, where and how states are saved; derive from it to decide otherwise.

    A trainer calls `load` once when it is made, `save` after each epoch and once more, forced, after the
    last, then `save_model`.
    """

    @abstractmethod
    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        """Saves the states of a run, if it is time to.

        Args:
            checkpoint_state: the states.
            index: what to save them under; the epoch.
            force: save whatever the rules for when to save say.

        Returns:
            the path of the file, or None when nothing was saved.
        """

    def save_model(self, model_state: Any, index: int) -> str | None:  # noqa: ARG002 - see below
        """Saves the module's state alone; does nothing unless overridden.

        Args:
            model_state: what `ModuleInterface.get_state` returned.
            index: what to save it under; the last epoch.

        Returns:
            the path of the file, or None when nothing was saved.
        """
        return None

    @abstractmethod
    def load(self) -> Checkpoint:
        """Loads the states to continue from; an empty `Checkpoint` where there is nothing to continue."""

    def is_due(self, index: int) -> bool:  # noqa: ARG002 - see below
        """Whether `save` would save under this index; True unless overridden, so that it decides."""
        return True

    def usual_save_s(self) -> float | None:
        """How long a save takes until it is durable, in seconds; None where it is not known."""
        return None

    def check_space(self, state: Checkpoint, optimizers: Iterable[Optimizer], indices: int) -> None:  # noqa: B027
        """Called before a trainer's first step; refuses a run whose checkpoints cannot be saved.

        Does nothing unless overridden; see `DefaultCheckpointer.check_space`.
        """

    def running(self) -> AbstractContextManager[object]:
        """The context in which a trainer trains; does nothing unless overridden."""
        return nullcontext()

    def register(self, *optimizers: Optimizer) -> None:  # noqa: B027 - see below
        """Called with the optimizers whose states will be saved; does nothing unless overridden."""

    def wait(self) -> None:  # noqa: B027 - as above
        """Returns when everything that was saved is durable; saves that return then need nothing here."""

    def take_reports(self) -> list[SaveReport] | None:
        """The reports of what became durable since the last call; None where `save` makes none."""
        return None

    def overhead(self) -> float | None:
        """The share of the time so far that saves have cost; None where it is not known."""
        return None
