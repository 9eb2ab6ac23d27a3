"""What a checkpoint keeps of a trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from marlin_ckpt.training import setting
from marlin_ckpt.training.resume import conditions, fitting, rng
from marlin_ckpt.training.resume.position import Position
from marlin_ckpt.training.sizes import Sizes


class TrainerState(Sizes):
    """How far a trainer is, and how it goes on from there."""

    last_epoch: int
    seed: int
    logger: logging.Logger
    _conditions: Mapping[str, Any]
    _position: Position

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the trainer; a subclass may add its own."""
        return {
            "last_epoch": self.last_epoch,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "seed": self.seed,
            "conditions": self._conditions,
            "position": self._position.state(self.total_steps_finished),
        }

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Takes over what `get_state` returned once; with `reset_optimizers_schedulers` not those.

        Args:
            state: the state, or None to leave everything as it is.

        Raises:
            StateMismatchError: it does not fit, and lists in what; with `exact`, also other conditions.
        """
        if not state:
            return
        fitting.check(state, self.optimizers, self.schedulers, resets=self.args.reset_optimizers_schedulers)
        self._announce(conditions.since(state, self._conditions, self.args.seed, self.seed))
        self.last_epoch = state["last_epoch"]
        self.seed = state.get("seed", self.seed) if self.args.seed is None else self.args.seed
        if self.args.reset_optimizers_schedulers:
            self.logger.info("Optimizers and schedulers are new, not loaded.")
            if (left := self.args.epochs - self.last_epoch - 1) > 0:
                self.optimizers, self.schedulers = self._new_optimizers(left)
            return
        setting.expect_schedules_first()
        for name in ("optimizers", "schedulers"):
            for one, saved in zip(getattr(self, name), state[name], strict=True):
                one.load_state_dict(saved)

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Finds out whether `update_state` would take a state, before anything is loaded.

        Raises:
            StateMismatchError: it would not.
        """
        with rng.preserved():
            optimizers, schedulers = self._new_optimizers(self.args.epochs)
        fitting.check(state, optimizers, schedulers, resets=self.args.reset_optimizers_schedulers)
        if self.args.exact:
            now = conditions.of(self.args, self.device, self.module.data_fingerprint(), optimizers)
            self._announce(conditions.since(state, now, self.args.seed, self.seed))

    def _take_position(self, state: Mapping[str, Any] | None) -> None:
        self._position.load((state or {}).get("position"), self.total_steps_finished)
        if state and "position" not in state:
            self._announce(["the checkpoint holds no random numbers"])

    def _announce(self, differences: Sequence[str]) -> None:
        conditions.announce(differences, self.logger, is_error=self.args.exact)
