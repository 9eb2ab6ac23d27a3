"""What our trainer asks of a checkpointer beyond PyMarlin's interface."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import cast

from torch.optim import Optimizer

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.reports import SaveReport


class TrainerHooks:
    """Answers that change nothing.

    A checkpointer overrides those to which it has a better answer. It need not derive from this: a trainer
    also asks an `AbstractCheckpointer` that has methods of these names.
    """

    def is_due(self, index: int) -> bool:  # noqa: ARG002 - whoever overrides it needs it
        """Whether `save` would save under this index; True unless overridden, so that it decides."""
        return True

    def usual_save_s(self) -> float | None:
        """How long a save takes until it is durable, in seconds; None where it is not known."""
        return None

    def check_space(self, state: Checkpoint, optimizers: Iterable[Optimizer], indices: int) -> None:
        """Called before a trainer's first step; refuses a run whose checkpoints cannot be saved.

        Does nothing unless overridden; see `DefaultCheckpointer.check_space`.
        """

    def running(self) -> AbstractContextManager[object]:
        """The context in which a trainer trains; does nothing unless overridden."""
        return nullcontext()

    def register(self, *optimizers: Optimizer) -> None:
        """Called with the optimizers whose states will be saved; does nothing unless overridden."""

    def wait(self) -> None:
        """Returns when everything that was saved is durable; saves that return then need nothing here."""

    def take_reports(self) -> list[SaveReport] | None:
        """The reports of what became durable since the last call; None where `save` makes none."""
        return None

    def overhead(self) -> float | None:
        """The share of the time so far that saves have cost; None where it is not known."""
        return None


_ANSWERS = TrainerHooks()
_NAMES = tuple(name for name in vars(TrainerHooks) if not name.startswith("_"))


def hooks_of(checkpointer: AbstractCheckpointer) -> TrainerHooks:
    """A checkpointer as a trainer asks it: its own methods, and those of `TrainerHooks` for the rest.

    An attribute of such a name that cannot be called, `running = True` say, is something else of the user's.
    """
    if isinstance(checkpointer, TrainerHooks):
        return checkpointer
    own = ((name, getattr(checkpointer, name, None)) for name in _NAMES)
    methods = {name: one if callable(one) else getattr(_ANSWERS, name) for name, one in own}
    return cast("TrainerHooks", SimpleNamespace(**methods))
