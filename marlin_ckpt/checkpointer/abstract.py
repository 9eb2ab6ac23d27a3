"""The interface that a trainer saves and loads through; PyMarlin's."""

from abc import ABC, abstractmethod
from typing import Any

from marlin_ckpt.checkpoint import Checkpoint


class AbstractCheckpointer(ABC):
    """Decides when, where and how states are saved; derive from it to decide otherwise.

    A trainer calls `load` once when it is made, `save` after each epoch and once more, forced, after the
    last, then `save_model`. If the checkpointer has methods of `TrainerHooks`, the trainer calls these too.
    """

    @abstractmethod
    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        """Saves the states of a run, if a save is due.

        Args:
            checkpoint_state: the states.
            index: the index to save under; the epoch, or with `index_by: step` the global step.
            force: save also if no save is due.

        Returns:
            the path of the file, or None if nothing was saved.
        """

    def save_model(self, model_state: Any, index: int) -> str | None:  # noqa: ARG002 - see below
        """Saves the module's state alone; does nothing unless overridden.

        Args:
            model_state: what `ModuleInterface.get_state` returned.
            index: the index of the last checkpoint.

        Returns:
            the path of the file, or None if nothing was saved.
        """
        return None

    @abstractmethod
    def load(self) -> Checkpoint:
        """Loads the states to continue from; an empty `Checkpoint` if there is nothing to continue."""
