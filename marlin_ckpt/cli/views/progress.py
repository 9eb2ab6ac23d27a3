"""The progress of a training run, and its report at the end."""

import os
import signal
import time
from collections.abc import Mapping
from typing import Any, Self

from marlin_ckpt.checkpointer.hooks import hooks_of
from marlin_ckpt.cli import log, output
from marlin_ckpt.cli.terminal import RunBar
from marlin_ckpt.cli.text import duration, size
from marlin_ckpt.cli.views import checkpoints, removals, run
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.removing import Removal
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats import inspection
from marlin_ckpt.operations.starting import Start
from marlin_ckpt.reports import FailedSave, SaveReport
from marlin_ckpt.storage import space
from marlin_ckpt.training.preemption import Preempted
from marlin_ckpt.training.trainer import Trainer


class RunProgress:
    """Observes a trainer: a live line on a terminal, one line for each epoch and file elsewhere.

    Attributes:
        has_news: whether an epoch was begun or a file saved.
    """

    def __init__(self, *, quiet: bool) -> None:
        """Shows nothing yet.

        Args:
            quiet: show nothing at all.
        """
        self.has_news = False
        self._quiet = quiet
        self._log = log.SavesFirst()
        self._bar = RunBar(is_shown=output.is_terminal() and not quiet)
        self._began_s = self._epoch_began_s = time.monotonic()
        self._steps = self._epoch_steps = 0
        self._saved: dict[str, None] = {}
        self._saves: list[SaveReport] = []
        self._metrics: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        self._log.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._log.__exit__()
        self._bar.stop()
        if isinstance(error, (KeyboardInterrupt, Preempted)):
            is_term = isinstance(error, Preempted) and error.signal == signal.SIGTERM
            how = "terminated" if is_term else "interrupted"
            last = list(self._saved)[-1:]
            output.talk(f"{how}; last checkpoint: {escape(last[0]) if last else 'none'}")
            if last:
                output.talk("hint: the same command with --resume continues from it")

    def on_epoch_begin(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Starts the epoch's line."""
        self.has_news = True
        self._epoch_began_s = time.monotonic()
        self._epoch_steps = 0
        self._bar.begin(f"epoch {epoch + 1}/{epochs}", steps, done)

    def on_global_step(self, global_step: int, loss: float) -> None:  # noqa: ARG002 - the observer's interface
        """Moves the line on."""
        self._steps += 1
        self._epoch_steps += 1
        self._bar.step(f"loss {loss:.4f}", self._speed())

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Prints the epoch's line."""
        self._metrics = dict(metrics)
        if not self._quiet:
            shown = "  ".join(f"{escape(name)} {value:.4g}" for name, value in metrics.items())
            output.talk(f"epoch {epoch + 1}: {self._epoch_steps} steps at {self._speed()}  {shown}")

    def on_save(self, path: str, index: int, report: SaveReport | None) -> None:  # noqa: ARG002
        """Prints a line for a file that is new."""
        self.has_news = True
        if report is not None:
            self._saves.append(report)
        is_new = path not in self._saved
        self._saved.pop(path, None)
        self._saved[path] = None
        self._bar.saved(os.path.basename(path))
        if is_new and not self._quiet:
            output.talk(f"saved {escape(path)}{'' if report is None else _costs(report)}")
        self._log.shown(path)

    def _speed(self) -> str:
        elapsed_s = time.monotonic() - self._epoch_began_s
        return f"{self._epoch_steps / elapsed_s:.1f} steps/s" if elapsed_s > 0 else "-"

    def report(self, trainer: Trainer, start: Start) -> dict[str, Any]:
        """The document of `train --json`, from which `run.show` makes its table."""
        overhead = hooks_of(trainer.checkpointer).overhead()
        files = [inspection.inspect(entry) for path in self._saved if (entry := catalog.entry(path))]
        removed: list[Removal] = getattr(trainer.checkpointer, "removed", list)()  # a user's may have none
        failed: list[FailedSave] = getattr(trainer.checkpointer, "failed_saves", list)()
        return {
            "run_id": getattr(trainer.checkpointer, "run_id", None),
            "ranks": place.world_size if (place := trainer.args.distributed_training_args) else 1,
            "resumed_from": start.resumes_from or None,
            "epochs": trainer.last_epoch + 1,
            "global_steps": trainer.global_steps_finished,
            "steps_trained": self._steps,
            "seconds": round(time.monotonic() - self._began_s, 3),
            "metrics": self._metrics,
            "files": [checkpoints.checkpoint(one, space.taken(one.entry)) for one in files],
            "removed": [removals.removal(one) for one in removed],
            "saves": [run.save(one) for one in self._saves],
            "failed_saves": [facts(one, "path", "error") for one in failed],
            "overhead": None if overhead is None else round(overhead, 6),
        }


def _costs(one: SaveReport) -> str:
    times = {"stall": one.stall_s, "copy": one.copy_s, "write": one.write_s, "sync": one.sync_s}
    costs = "".join(f"  {name} {duration(seconds)}" for name, seconds in times.items())
    return f"  {size(one.size_bytes)} at {size(one.bytes_per_s)}/s{costs}"
