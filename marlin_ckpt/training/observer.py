"""The interface through which a trainer reports its progress."""

from collections.abc import Mapping
from typing import Protocol

from marlin_ckpt.reports import SaveReport


class TrainerObserver(Protocol):
    """Follows a trainer; the command line shows progress through it.

    Each method is called on the training thread and must return quickly.
    """

    def on_epoch_begin(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Before an epoch: its number from 0, the run's epochs, the epoch's global steps, and those done."""

    def on_global_step(self, global_step: int, loss: float) -> None:
        """After a global step: the number of them in the run, and the mean loss of this one."""

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """After an epoch and its validation."""

    def on_save(self, path: str, index: int, report: SaveReport | None) -> None:
        """After a saved file has become durable; with its report, where the checkpointer makes reports."""
