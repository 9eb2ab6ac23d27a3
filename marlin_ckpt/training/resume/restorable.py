"""The trainer's state: what of a run a checkpoint holds, and how a trainer goes on from that."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.distributed.failures import together
from marlin_ckpt.training import stepping
from marlin_ckpt.training.module import ask_to_stop, wants_to_stop
from marlin_ckpt.training.parallel import backends, own
from marlin_ckpt.training.resume import conditions, fitting, rng
from marlin_ckpt.training.resume.continuation import Continuation
from marlin_ckpt.training.resume.position import Position
from marlin_ckpt.training.sizes import Figures


class Restorable(Figures):
    """What a trainer has of a run, as far as it is saved and restored.

    Attributes:
        last_epoch: the last epoch that was finished; -1 before the first.
        optimizers: the module's optimizers.
        schedulers: the module's schedulers.
        seed: the seed of the order of the training data.
        device: that the module is on.
    """

    last_epoch: int
    optimizers: list[Optimizer]
    schedulers: list[Any]
    seed: int
    device: torch.device
    _continuation: Continuation
    _position: Position
    _maker: stepping.Maker
    _conditions: dict[str, Any]
    _metrics: dict[str, float]
    _steps_per_epoch: int | None = None

    def get_state(self) -> dict[str, Any]:
        """The trainer's part of a checkpoint."""
        named = fitting.names(self.optimizers, self.module)
        position = self._position.state(self.total_steps_finished)
        of_ranks: dict[str, Any] = {}
        if self.is_distributed:
            position, mine = own.split(position, self.trainer_backend.get_state())
            if backends.has_own_buffers(self.trainer_backend):
                mine["buffers"] = own.buffers(self.module)
            of_ranks = own.in_state(self._ranks.rank, mine)
        return {
            "last_epoch": self.last_epoch,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "seed": self.seed,
            "conditions": {**self._conditions, **self._position.data, **named},
            "position": position,
            **of_ranks,
            **({"module_should_stop": True} if self._is_within and wants_to_stop(self.module) else {}),
        }

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Restores what `get_state` returned, except what `reset_optimizers_schedulers` makes new.

        Raises:
            StateMismatchError: it does not fit, and the message says where; or with `exact`, conditions
                differ.
        """
        if not state:
            return
        fitting.check(state, self.module, self.optimizers, self.schedulers, self.args)
        self.seed = self._continuation.seed(state, self._conditions, self.seed)
        self.last_epoch = state["last_epoch"]
        ask_to_stop(self.module, really=bool(state.get("module_should_stop")))
        self._continuation.load(state, self.optimizers, self.schedulers, self._steps())
        if self.args.reset_optimizers_schedulers:
            self.optimizers, self.schedulers = self._make(state)

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Refuses what `update_state` would refuse, before anything is loaded."""
        with rng.preserved():
            optimizers, schedulers = self._make(state)
        fitting.check(state, self.module, optimizers, schedulers, self.args)
        if self.args.exact:
            self._continuation.seed(state, self._conditions_of((optimizers, schedulers)), self.seed)

    def _conditions_of(self, made: stepping.Steppers) -> dict[str, Any]:
        of_made = conditions.of_made(*made, self.args.epochs, self._steps())
        fingerprint = self.module.data_fingerprint()
        return conditions.of(self.args, self.device, fingerprint, self._ranks.world_size) | of_made

    def _make(self, state: Any) -> stepping.Steppers:
        return self._maker.make(self._steps(), stepping.epochs_ahead(self.args, state))

    def _steps(self) -> int:
        """The optimizer steps in an epoch, estimated once: a module may take long to make its loader.

        All ranks make as many, and schedules for as many.
        """
        if self._steps_per_epoch is None:
            own = together(self._ranks, lambda: self.estimated_global_steps_per_epoch)
            self._steps_per_epoch = self._ranks.least(own)[0]
        return self._steps_per_epoch

    def _mine(self, loaded: Checkpoint) -> Checkpoint:
        """A checkpoint as this rank goes on from it, whose own buffers the module gets."""
        if backends.has_own_buffers(self.trainer_backend):
            own.restore_buffers(self.module, loaded.trainer_state, self._ranks.rank, self._ranks.world_size)
        return own.checkpoint_of(loaded, self._ranks.rank, self._ranks.world_size)

    def _state(self) -> Checkpoint:
        """What a checkpoint holds; all ranks call this."""
        backends.before_save(self.trainer_backend, self.module)
        of_module, of_trainer = self.module.get_state(), self.get_state()
        of_backend = self.trainer_backend.get_state()
        if self.is_distributed:  # a wish to stop is that of rank 0
            of_trainer.pop("module_should_stop", None)
            if self._is_within and self._ranks.told(wants_to_stop(self.module)):
                of_trainer["module_should_stop"] = True
        return Checkpoint(
            module_interface_state=of_module,
            trainer_state=of_trainer,
            trainer_backend_state=own.backend_in_common(of_backend) if self.is_distributed else of_backend,
            metrics={} if self._is_within else dict(self._metrics),  # which are of an earlier state
        )

    @property
    def _is_within(self) -> bool:
        return self._position.batches(self.total_steps_finished) > 0
