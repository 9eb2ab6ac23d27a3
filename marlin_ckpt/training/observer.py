"""The interface through which a trainer reports its progress."""

from collections.abc import Mapping
from typing import Protocol

from marlin_ckpt.reports import SaveReport


class TrainerObserver(Protocol):
    """Methods that a trainer calls to report progress; the command shows its progress bar by these.

    They are called on the thread that trains, and should return quickly.
    """

    def on_epoch_begin(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Called before an epoch.

        Args:
            epoch: its number, from 0.
            epochs: the number of epochs of the run.
            steps: global steps in this epoch.
            done: those of them that are done, in a resumed run.
        """

    def on_global_step(self, global_step: int, loss: float) -> None:
        """Called after a global step.

        Args:
            global_step: global steps done in the whole run.
            loss: the mean loss of this one.
        """

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Called after an epoch and its validation, with the metrics."""

    def on_save(self, path: str, index: int, report: SaveReport | None) -> None:
        """Called when a saved file is durable.

        Args:
            path: the file.
            index: the index that it was saved under.
            report: its report; None if the checkpointer makes none.
        """


def of_rank(observer: TrainerObserver | None, *, is_main: bool) -> TrainerObserver | None:
    """The observer, where this rank has one: it is that of rank 0, unless its class has `is_at_all_ranks`.

    Args:
        observer: that a trainer is given.
        is_main: whether this is rank 0.
    """
    return observer if is_main or getattr(observer, "is_at_all_ranks", False) else None
