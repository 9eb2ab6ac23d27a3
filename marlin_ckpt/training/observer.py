"""What a trainer tells of its progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from marlin_ckpt.reports import SaveReport


class TrainerObserver(Protocol):
    """Watches a trainer; what the command line's progress is made of.

    Each method is called on the training thread and must return quickly.
    """

    def on_epoch_begin(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Before an epoch: its number from 0, the epochs, the global steps in it, and those done already."""

    def on_global_step(self, global_step: int, loss: float) -> None:
        """After a global step: how many are done in the run, and the mean loss of this one."""

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """After an epoch and its validation."""

    def on_save(self, path: str, index: int, report: SaveReport | None) -> None:
        """After a file was saved, and is durable; with what it cost, where the checkpointer tells."""
