"""Takes over a trainer's state, and says why a resume from it will not be exact."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import StateMismatchError
from marlin_ckpt.loading.distributing import distributed
from marlin_ckpt.training import setting
from marlin_ckpt.training.parallel import gathering
from marlin_ckpt.training.resume import conditions, fitting, made
from marlin_ckpt.training.resume.position import Position
from marlin_ckpt.training.sizes import step_batch_size

State = Mapping[str, Any]  # what `Trainer.get_state` returned once


class Continuation:
    """Goes on from a trainer's state.

    Attributes:
        position: where within its epoch the run is.
    """

    def __init__(self, args: TrainerArguments, logger: logging.Logger, ranks: Ranks) -> None:
        """Takes the trainer's arguments, its logger, and the ranks of the run, which go on together."""
        self._ranks = ranks
        self.position = Position()
        self._args = args
        self._logger = logger
        self._changes: list[conditions.Change] = []
        self._others: list[str] = []  # further reasons why the resume will not be exact
        self._too_short: list[str] = []

    def seed(self, state: State, now: Mapping[str, Any], drawn: int) -> int:
        """The seed to go on with; compares the conditions with those of the state, for `load` to announce.

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
        self._changes = conditions.differences(before, {**now, "seed": seed})
        self._others = list(self._other_reasons(state))
        if self._args.exact:
            self._say([*map(str, self._changes), *self._others])
        return seed

    def _other_reasons(self, state: State) -> Iterator[str]:
        if self._args.reset_optimizers_schedulers:
            yield "reset_optimizers_schedulers makes new optimizers and schedulers"
        position = state.get("position") or {}
        begun = state["last_epoch"] + 1 + ("epoch" in position)
        if self._args.exact and begun > self._args.epochs:
            yield f"{begun} epochs have begun and epochs is {self._args.epochs}, so that nothing is trained"
        if "position" not in state:
            yield "the checkpoint holds no random numbers"

    def _say_if_finished(self, state: State) -> None:
        done, epochs = state["last_epoch"] + 1, self._args.epochs
        if done < epochs:
            return
        has_gone_further = done > epochs or "epoch" in (state.get("position") or {})
        self._logger.log(
            logging.WARNING if has_gone_further else logging.INFO,
            "Nothing is left to train: epoch %d is done, and trainer.epochs is %d. Raise it to train on.",
            done,
            epochs,
        )

    def load(
        self,
        state: State,
        optimizers: Sequence[Optimizer],
        schedulers: Sequence[LRScheduler],
        steps_per_epoch: int,
    ) -> None:
        """Hands optimizers and schedulers their states, unless they are to be new; announces what differs.

        Args:
            state: what `Trainer.get_state` returned once.
            optimizers: the module's.
            schedulers: the module's.
            steps_per_epoch: global steps in an epoch.
        """
        self._say_if_finished(state)
        if self._args.reset_optimizers_schedulers:
            self._logger.info("Optimizers and schedulers are new, not loaded.")
            self.announce([*map(str, self._changes), *self._others])
            return
        self._too_short = fitting.too_short(state, schedulers, self._args, steps_per_epoch)
        setting.expect_schedules_first()
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(distributed(saved, optimizer))
        for scheduler, saved in zip(schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        loaded = made.hyper_parameters(optimizers, schedulers)
        self.announce([*(one.in_force(loaded) for one in self._changes), *self._others])

    def go_on(self) -> None:
        """Announces why an epoch that was opened is not exact; refuses a schedule that ends before the run.

        Raises:
            StateMismatchError: a loaded schedule would raise an error on the way, or `exact` forbids it.
        """
        if self._too_short:
            hint = "trainer.reset_optimizers_schedulers: true makes new ones for the epochs that are left"
            what = "the loaded schedule ends before the run: " + "; ".join(self._too_short)
            raise StateMismatchError(what, hint=hint, differences=tuple(self._too_short))
        self.announce(self.position.lost)

    def load_position(
        self, state: State | None, batches_completed: int, batch_size: int, world_size: int = 1
    ) -> None:
        """Resumes at the position of a state; without a state the run is between two epochs.

        Args:
            state: what `Trainer.get_state` returned once, or None.
            batches_completed: the training batches done in the whole run.
            batch_size: the samples in one batch that the trainer decides on now.
            world_size: the number of ranks.
        """
        state = state or {}
        before = state.get("conditions") or {}
        size, limit = before.get("train_batch_size"), self._args.gpu_batch_size_limit
        is_by_arguments = batch_size == step_batch_size(self._args.train_batch_size // world_size, limit)
        in_batches_of = 0  # not known, where a subclass of the trainer decides, or nothing says it
        if isinstance(size, int) and is_by_arguments:
            in_batches_of = step_batch_size(size, before.get("gpu_batch_size_limit", limit))
        self.position.load(state.get("position"), batches_completed, before, in_batches_of)

    def announce(self, reasons: Sequence[str]) -> None:
        """Warns that the resume will not be exact; nothing where no rank has a reason. All ranks call this.

        Args:
            reasons: why, a sentence each.

        Raises:
            StateMismatchError: instead of the warning, with `exact`.
        """
        self._say(gathering.said(self._ranks, reasons))

    def _say(self, reasons: Sequence[str]) -> None:
        if not reasons:
            return
        what = "this resume will not be exact because " + "; ".join(reasons)
        if self._args.exact:
            raise StateMismatchError(what, hint="undo the change", differences=tuple(reasons))
        self._logger.warning("%s.", what[0].upper() + what[1:])
