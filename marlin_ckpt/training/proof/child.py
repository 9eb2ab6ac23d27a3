"""A process of a proof of exact resuming: trains, reports each step, and kills itself at a given moment.

It is run as `python -m marlin_ckpt.training.proof.child JOB`, with a JSON object: see `Job`.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.hooks import hooks_of
from marlin_ckpt.config import Config, read_config
from marlin_ckpt.errors import MarlinError, RankError
from marlin_ckpt.keep import RetentionArguments
from marlin_ckpt.operations import starting
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.storage.local.temporary import is_temporary
from marlin_ckpt.training.build import build_trainer
from marlin_ckpt.training.proof.hidden import Hidden
from marlin_ckpt.training.resume.leaves import fingerprint, leaves
from marlin_ckpt.training.trainer import Trainer

_SEED = 0  # where the configuration has none: two runs can only be the same from the same seed
# Not compared: the conditions are no state, and the position of a loader has no fixed form.
_LEFT_OUT = ("trainer_state/conditions", "trainer_state/position/epoch/loader")
_OF_MODULE = "module_interface_state/"
_LAST_LINES = 3  # of a traceback


@dataclass(frozen=True)
class Job:
    """What one process is to do.

    Attributes:
        config: the YAML file.
        overrides: `KEY=VALUE` each.
        directory: where it saves, and continues from what it finds there.
        steps: the global steps after which it ends; 0: those of its first two saves, and `at_least` so many.
        at_least: see `steps`.
        kill_at: the global step after which it kills itself; 0: never.
        moment: when then: before the next step (`step`), while the next file is written (`save`), in
            `validation`, or by a `signal` (SIGTERM) that the trainer answers.
        rank: of many, the one that kills itself; None: all do.
        fd: of the pipe that it writes its reports to; of many ranks each has one, by its name.
        pipes: what the names of these begin with, before the rank.
    """

    config: str
    overrides: list[str]
    directory: str
    steps: int
    at_least: int = 0
    kill_at: int = 0
    moment: str = ""
    rank: int | None = None
    fd: int = -1
    pipes: str = ""


class _Enough(BaseException):
    """All steps are done."""


class _Teller:
    """Observes the trainer: reports each step, and ends the process at the given moment.

    Attributes:
        trainer: from `watch` on, which comes before its first step.
    """

    trainer: Trainer
    is_at_all_ranks = True

    def __init__(self, job: Job) -> None:
        self._job = job
        self._dies = job.rank is None or job.rank == int(os.environ.get("RANK", "0"))
        self._steps = job.steps
        self._batches: list[str] = []
        self._is_at_end = self._is_at_kill = self._is_within = self._awaits_end = False

    def watch(self, trainer: Trainer, period: int) -> None:
        """Reports where the run begins, and wraps the steps of the trainer's module.

        Args:
            trainer: before its first step.
            period: the checkpointer's.
        """
        self.trainer = trainer
        self._hidden = Hidden(trainer.module)
        self._before = self._hidden.values()
        saves = two_saves(trainer.args, period, trainer.estimated_global_steps_per_epoch)
        self._steps = self._job.steps or max(*saves, self._job.at_least)
        done = trainer.global_steps_finished
        self.tell({"begin": done, "saves": saves, "steps": self._steps})
        self._come_to(done)
        module: Any = trainer.module
        module.train_step = self._wrapped(module.train_step, is_training=True)
        module.val_step = self._wrapped(module.val_step, is_training=False)

    def tell(self, record: Mapping[str, Any]) -> None:
        """Writes a record into the pipe."""
        data = (json.dumps(record) + "\n").encode()
        while data:
            data = data[os.write(self._job.fd, data) :]

    def fails(self, error: Exception, what: str) -> None:
        """Reports what the process fails with.

        Args:
            error: that ends it.
            what: the same in words.
        """
        rank = int(os.environ["RANK"]) if self._job.pipes else 0
        is_of_all = isinstance(error, MarlinError) and getattr(error, "is_of_all_ranks", False)
        where = f"rank {rank}: " if self._job.pipes and not is_of_all else ""
        is_of_others = isinstance(error, RankError) or (is_of_all and rank > 0)
        self.tell({"error": where + what, "is_of_others": is_of_others})

    def _wrapped(self, step: Callable[..., Any], *, is_training: bool) -> Callable[..., Any]:
        def run(global_step: int, batch: Any, device: Any) -> Any:
            if self._is_within:  # a validation step that calls the training step
                return step(global_step=global_step, batch=batch, device=device)
            if is_training:
                self._end_if_due()
                self._batches.append(" ".join(fingerprint(one) for _, one in leaves(batch)))
            elif self._is_at_kill and self._job.moment == "validation":
                self._end_by(signal.SIGKILL)
            self._is_within = True
            try:
                return step(global_step=global_step, batch=batch, device=device)
            finally:
                self._is_within = False

        return run

    def on_epoch_begin(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Nothing is reported of it."""

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:  # noqa: ARG002
        """Nothing is reported of it."""
        self._hidden.measured(metrics)

    def on_save(self, path: str, index: int, report: SaveReport | None) -> None:
        """Nothing is reported of saves."""

    def on_global_step(self, global_step: int, loss: float) -> None:
        """Reports the step."""
        states = self._states()
        self.tell({"step": global_step, "batches": self._batches, "loss": repr(loss), "states": states})
        self._hidden.follow(_of_module(states))
        self._batches = []
        self._come_to(global_step)

    def _states(self) -> dict[str, str]:
        trainer = self.trainer
        states = trainer.module.get_state(), trainer.get_state(), trainer.trainer_backend.get_state()
        return {path: fingerprint(one) for path, one in state_leaves(Checkpoint(*states).payload())}

    def _come_to(self, global_step: int) -> None:
        self._is_at_end = global_step >= self._steps
        self._is_at_kill = self._dies and 0 < global_step == self._job.kill_at
        if self._is_at_kill and self._job.moment == "save":
            self.tell({"kill": True})
            threading.Thread(target=_kill_in_save, args=(self._job.directory,), daemon=True).start()
            self._awaits_end = True
        if self._is_at_kill and self._job.moment == "signal":
            self._awaits_end = True  # many ranks agree on it after the next step
            self._end_by(signal.SIGTERM)
        if self._dies and 0 < self._job.kill_at < global_step and not self._awaits_end:
            self.tell({"missed": True})  # and leaves what comes after to the process of the next kill
            os.kill(os.getpid(), signal.SIGKILL)

    def _end_by(self, number: int) -> None:
        """Reports that this process ends now, which the way in which torchrun ends does not show."""
        self.tell({"kill": True})
        os.kill(os.getpid(), number)

    def _end_if_due(self) -> None:
        """Ends the process before a training step, so that a save that is due at this place has been made."""
        if self._is_at_kill and self._job.moment == "step":
            self._end_by(signal.SIGKILL)
        if self._is_at_end:
            self.trainer.save_checkpoint(force=True)
            raise _Enough

    def end(self) -> None:
        """Waits for the last save, and reports what of the module no state holds."""
        hooks_of(self.trainer.checkpointer).wait()
        unheld = self._hidden.unheld(self._before, _of_module(self._states()))
        self.tell({"end": self._hidden.values(), "unheld": unheld})


def two_saves(args: TrainerArguments, period: int, in_epoch: int) -> tuple[int, int]:
    """The global steps after which a run makes its first two checkpoints.

    Args:
        args: the trainer's.
        period: the checkpointer's.
        in_epoch: global steps in an epoch.
    """
    total = args.epochs * in_epoch
    first, second = (period, 2 * period) if args.index_by == "step" else (in_epoch, (period + 1) * in_epoch)
    return min(first, total), min(second, total)


def state_leaves(states: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The leaves of a checkpoint's states that must be the same in both runs."""
    return [(path, one) for path, one in leaves(states) if not path.startswith(_LEFT_OUT)]


def _of_module(states: Mapping[str, str]) -> dict[str, str]:
    return {path: text for path, text in states.items() if path.startswith(_OF_MODULE)}


def _kill_in_save(directory: str) -> None:
    before = {name for name in os.listdir(directory) if not is_temporary(name)}
    while before.issuperset(os.listdir(directory)):  # `before` has no temporary name
        continue
    os.kill(os.getpid(), signal.SIGKILL)


def _configured(job: Job) -> Config:
    """The user's own configuration, but for where it saves, and that only the newest checkpoint is kept."""
    config = read_config(job.config, job.overrides)
    trainer, checkpointer = config.trainer, config.checkpointer
    trainer.exact = True
    if trainer.seed is None:
        trainer.seed = _SEED
    checkpointer.checkpoint, checkpointer.delete_existing_checkpoints = True, False
    checkpointer.save_dir, checkpointer.model_state_save_dir = job.directory, None
    checkpointer.keep, checkpointer.on_save_error = RetentionArguments(last=1), "raise"
    if checkpointer.period == "auto":
        checkpointer.period = 1
    start = starting.decide(checkpointer, epochs=trainer.epochs, resume=True, guards=False)
    starting.apply(start, checkpointer, epochs=trainer.epochs)
    return config


def _run(job: Job, teller: _Teller) -> None:
    # A data loader's workers outlive this process, and must not keep the pipe open.
    os.set_inheritable(job.fd, False)  # noqa: FBT003 - its own signature
    os.register_at_fork(after_in_child=lambda: os.close(job.fd))
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")
    config = _configured(job)
    trainer = build_trainer(config, observer=teller)
    teller.watch(trainer, int(config.checkpointer.period))
    with contextlib.suppress(_Enough):
        trainer.train()
    teller.end()


def main() -> int:
    """Runs the job of the command line."""
    job = Job(**json.loads(sys.argv[1]))
    if job.pipes:
        job = replace(job, fd=os.open(job.pipes + os.environ["RANK"], os.O_WRONLY))
    teller = _Teller(job)
    try:
        _run(job, teller)
    except (OSError, MemoryError) as error:  # of the machine, and no difference between two runs
        teller.tell({"failed": str(error) or type(error).__name__})
        return 1
    except MarlinError as error:
        teller.fails(error, str(error))
        return error.exit_code
    except Exception as error:
        teller.fails(error, _last_lines(error))
        raise
    return 0


def _last_lines(error: Exception) -> str:
    """Where in the user's code an error comes from, and what it says."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return " ".join(" ".join(lines[-_LAST_LINES:]).split())


if __name__ == "__main__":
    sys.exit(main())
