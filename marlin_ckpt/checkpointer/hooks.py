"""What our trainer asks of a checkpointer beyond PyMarlin's interface."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

from torch.optim import Optimizer

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.reports import SaveReport


class TrainerHooks:
    """What a `Trainer` asks of a checkpointer beyond PyMarlin's interface; by default nothing changes.

    Override the methods for which the checkpointer has a better answer. It need not derive from this class: a
    trainer also calls methods of these names on an `AbstractCheckpointer`.
    """

    def saves_together(self, state: Any) -> bool:  # noqa: ARG002 - whoever overrides it needs it
        """Whether all ranks of a run are to call `save` or `save_model`, each with its part of this state.

        Where not, rank 0 alone saves it, with what differs between the ranks. False unless overridden.
        """
        return False

    def is_due(self, index: int) -> bool:  # noqa: ARG002 - whoever overrides it needs it
        """Whether `save` would save under this index without being forced; True unless overridden."""
        return True

    def usual_save_s(self) -> float | None:
        """How long a save takes until it is durable, in seconds; None if that is not known."""
        return None

    def check_space(self, state: Checkpoint, optimizers: Iterable[Optimizer], indices: int) -> None:
        """Called before the first step; raises if the checkpoints of the run cannot be saved.

        Does nothing unless overridden; see `DefaultCheckpointer.check_space`.
        """

    def running(self) -> AbstractContextManager[object]:
        """The context in which a trainer trains; does nothing unless overridden."""
        return nullcontext()

    def register(self, *optimizers: Optimizer) -> None:
        """Called with the optimizers whose states will be saved; does nothing unless overridden."""

    def wait(self) -> None:
        """Returns when everything that was saved is durable; `save` may wait for that itself."""

    def take_reports(self) -> list[SaveReport] | None:
        """The reports of the saves that became durable since the last call; None if there are no reports."""
        return None

    def on_run_event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Called with what happens in the training, on its thread; does nothing unless overridden.

        Args:
            kind: `started`, with the `config` of the trainer and the `world_size`; `saving`, before each call
                of `save`, with the `step`; `measured` after an epoch, with `epoch`, `step` and `metrics`;
                `signal`, with its name as `signal`, and the `step`; `ended`, with `how` (`finished`,
                `stopped` or `failed`), the `error` in words, and the `epochs` and `step` that are done.
            facts: these.
        """

    def overhead(self) -> float | None:
        """The share of the run's time that saves have taken so far, from 0 to 1; None if not known."""
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
