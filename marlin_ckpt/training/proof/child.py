"""A process of a proof of exact resuming: trains, reports each step, and kills itself at a given moment.

It is run as `python -m marlin_ckpt.training.proof.child JOB`, with a JSON object: see `Job`.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.config import Config, read_config
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.operations import starting
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.storage.local.temporary import is_temporary
from marlin_ckpt.training.build import build_trainer
from marlin_ckpt.training.resume.leaves import fingerprint, leaves
from marlin_ckpt.training.trainer import Trainer

_SEED = 0  # where the configuration has none: two runs can only be the same from the same seed
# Not compared: the conditions are no state, and the position of a loader has no fixed form.
_LEFT_OUT = ("trainer_state/conditions", "trainer_state/position/epoch/loader")


@dataclass(frozen=True)
class Job:
    """What one process is to do.

    Attributes:
        config: the YAML file.
        overrides: `KEY=VALUE` each.
        directory: where it saves, and continues from what it finds there.
        steps: the global steps after which it ends.
        period: it saves at the multiples of it.
        kill_at: the global step after which it kills itself; 0: never.
        moment: when then: at once (`step`), while a file is written (`save`), or in `validation`.
        fd: of the pipe that it writes its reports to.
    """

    config: str
    overrides: list[str]
    directory: str
    steps: int
    period: int = 0
    kill_at: int = 0
    moment: str = ""
    fd: int = -1


class _Enough(BaseException):
    """All steps are done."""


class _Teller:
    """Observes the trainer: reports each step, and ends the process at the given moment.

    Attributes:
        trainer: from `watch` on, which comes before its first step.
    """

    trainer: Trainer

    def __init__(self, job: Job) -> None:
        self._job = job
        self._batches: list[str] = []
        self._is_at_end = self._is_at_kill = self._is_within = False

    def watch(self, trainer: Trainer) -> None:
        """Wraps the steps of the trainer's module."""
        self.trainer = trainer
        self._come_to(trainer.global_steps_finished)
        module: Any = trainer.module
        module.train_step = self._before(module.train_step, is_training=True)
        module.val_step = self._before(module.val_step, is_training=False)

    def _before(self, step: Callable[..., Any], *, is_training: bool) -> Callable[..., Any]:
        def run(global_step: int, batch: Any, device: Any) -> Any:
            if self._is_within:  # a validation step that calls the training step
                return step(global_step=global_step, batch=batch, device=device)
            self._end_if_due(is_validation=not is_training)
            if is_training:
                self._batches.append(" ".join(fingerprint(one) for _, one in leaves(batch)))
            self._is_within = True
            try:
                return step(global_step=global_step, batch=batch, device=device)
            finally:
                self._is_within = False

        return run

    def on_epoch_begin(self, epoch: int, epochs: int, steps: int, done: int) -> None:  # noqa: ARG002
        """Ends the process if it is time."""
        self._end_if_due()

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:  # noqa: ARG002
        """Ends the process if it is time."""
        self._end_if_due()

    def on_save(self, path: str, index: int, report: SaveReport | None) -> None:
        """Nothing is reported of saves."""

    def on_global_step(self, global_step: int, loss: float) -> None:
        """Reports the step."""
        told = {
            "step": global_step,
            "batches": self._batches,
            "loss": repr(loss),
            "states": {path: fingerprint(one) for path, one in state_leaves(_states(self.trainer))},
        }
        self._batches = []
        _write_all(self._job.fd, (json.dumps(told) + "\n").encode())
        self._come_to(global_step)

    def _come_to(self, global_step: int) -> None:
        self._is_at_end = global_step >= self._job.steps
        self._is_at_kill = 0 < global_step == self._job.kill_at
        if self._is_at_kill and self._job.moment == "save":
            threading.Thread(target=_kill_in_save, args=(self._job.directory,), daemon=True).start()

    def _end_if_due(self, *, is_validation: bool = False) -> None:
        if self._is_at_kill and (is_validation or self._job.moment != "validation"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._is_at_end:
            self.trainer.checkpointer.wait()
            raise _Enough


def _states(trainer: Trainer) -> dict[str, Any]:
    states = trainer.module.get_state(), trainer.get_state(), trainer.trainer_backend.get_state()
    return Checkpoint(*states).payload()


def state_leaves(states: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The leaves of a checkpoint's states that must be the same in both runs."""
    return [(path, one) for path, one in leaves(states) if not path.startswith(_LEFT_OUT)]


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _kill_in_save(directory: str) -> None:
    before = {name for name in os.listdir(directory) if not is_temporary(name)}
    while before.issuperset(os.listdir(directory)):  # `before` has no temporary name
        continue
    os.kill(os.getpid(), signal.SIGKILL)


def _configured(job: Job) -> Config:
    config = read_config(job.config, job.overrides)
    config.trainer.exact = True
    config.trainer.index_by = "step"
    if config.trainer.seed is None:
        config.trainer.seed = _SEED
    checkpointer = config.checkpointer
    checkpointer.checkpoint, checkpointer.delete_existing_checkpoints = True, False
    checkpointer.period, checkpointer.save_dir = job.period, job.directory
    checkpointer.model_state_save_dir = None
    epochs = config.trainer.epochs
    start = starting.decide(checkpointer, epochs=epochs, resume=True, guards=False)
    starting.apply(start, checkpointer, epochs=epochs)
    return config


def _run(job: Job) -> None:
    # A data loader's workers outlive this process, and must not keep the pipe open.
    os.set_inheritable(job.fd, False)  # noqa: FBT003 - its own signature
    os.register_at_fork(after_in_child=lambda: os.close(job.fd))
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")
    teller = _Teller(job)
    trainer = build_trainer(_configured(job), observer=teller)
    teller.watch(trainer)
    with contextlib.suppress(_Enough):
        trainer.train()


def main() -> int:
    """Runs the job of the command line."""
    try:
        _run(Job(**json.loads(sys.argv[1])))
    except MarlinError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
