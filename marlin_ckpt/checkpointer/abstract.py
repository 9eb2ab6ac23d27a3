"""The interface that a trainer saves and loads through; PyMarlin's."""

from abc import ABC, abstractmethod
from typing import Any

from marlin_ckpt.checkpoint import Checkpoint


class AbstractCheckpointer(ABC):
    """Decides when, where and how states are saved; derive from it to decide otherwise.

    A trainer calls `load` once when it is made, `save` after each epoch and once more, forced, after the
    last, then `save_model`. A checkpointer that has methods of `TrainerHooks` is asked these as well.
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
