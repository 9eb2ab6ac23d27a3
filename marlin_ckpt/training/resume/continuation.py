"""Takes over a trainer's state, and says why a resume from it will not be exact."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.errors import StateMismatchError
from marlin_ckpt.training import setting
from marlin_ckpt.training.resume import conditions
from marlin_ckpt.training.resume.position import Position

State = Mapping[str, Any]  # what `Trainer.get_state` returned once


class Continuation:
    """Goes on from a trainer's state.

    Attributes:
        position: where within its epoch the run is.
    """

    def __init__(self, args: TrainerArguments, logger: logging.Logger) -> None:
        self.position = Position()
        self._args = args
        self._logger = logger

    def seed(self, state: State, now: Mapping[str, Any], drawn: int) -> int:
        """The seed to go on with; announces how the conditions differ from those of the state.

        Args:
            state: what `Trainer.get_state` returned once.
            now: the conditions of this run.
            drawn: its seed so far, which a state without a seed is taken to have had.

        Raises:
            StateMismatchError: they differ, and `exact` forbids that.
        """
        saved: int = state.get("seed", drawn)
        seed = saved if self._args.seed is None else self._args.seed
        before = {**state.get("conditions", {}), "seed": saved}
        self.announce(conditions.differences(before, {**now, "seed": seed}))
        return seed

    def load(self, state: State, optimizers: Sequence[Optimizer], schedulers: Sequence[LRScheduler]) -> None:
        """Hands optimizers and schedulers their states, unless they are to be new."""
        if self._args.reset_optimizers_schedulers:
            self._logger.info("Optimizers and schedulers are new, not loaded.")
            return
        setting.expect_schedules_first()
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)

    def load_position(self, state: State | None, batches_completed: int) -> None:
        """Resumes at the position of a state; without a state the run is between two epochs.

        Args:
            state: what `Trainer.get_state` returned once, or None.
            batches_completed: the training batches done in the whole run.

        Raises:
            StateMismatchError: the state has no position, and `exact` demands one.
        """
        self.position.load((state or {}).get("position"), batches_completed)
        if state and "position" not in state:
            self.announce(["the checkpoint holds no random numbers"])

    def announce(self, reasons: Sequence[str]) -> None:
        """Warns that the resume will not be exact; nothing where there is no reason.

        Args:
            reasons: why, a sentence each.

        Raises:
            StateMismatchError: instead of the warning, with `exact`.
        """
        if not reasons:
            return
        what = "this resume will not be exact because " + "; ".join(reasons)
        if self._args.exact:
            raise StateMismatchError(what, hint="undo the change", differences=tuple(reasons))
        self._logger.warning("%s.", what[0].upper() + what[1:])
