"""Makes a run in which things go wrong, for pictures of its report.

    python -m tools.example_run DIRECTORY

A character-level model learns the sonnets of `configs/` for some seconds. In epoch 9 a signal stops it, and
it is resumed. In epoch 14 its learning rate is ten times too high. At the end of epoch 21 some weights become
NaN, as they do where a value overflows in half precision, and the loss is NaN from then on. At last a
checkpoint is cut in half.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from marlin_ckpt.arguments import TextArguments
from marlin_ckpt.training.module import Schedulers
from marlin_ckpt.training.toys.text import Text

REPOSITORY = Path(__file__).parent.parent
CONFIG = """\
module:
  name: tools.example_run:Unsteady
trainer:
  epochs: 24
  train_batch_size: 16
  val_batch_size: 16
  seed: 7
checkpointer:
  save_dir: {directory}
  model_state_save_dir: null
  statistics: true
  keep: {{last: 6, every: 3, best: {{metric: val_loss}}}}
"""
_STOPS_AT = "EXAMPLE_RUN_STOPS_AT"  # the epoch in which the process sends itself SIGTERM
_SPIKE, _OVERFLOW = 14, 21
_CUT = 18


class Unsteady(Text):
    """The module `text`, with a learning rate that is too high once, and an overflow."""

    def __init__(self) -> None:
        """Reads the sonnets."""
        sonnets = str(REPOSITORY / "configs" / "sonnets.txt")
        super().__init__(TextArguments(files=[sonnets], width=32, depth=4, heads=4, context=64))
        self._optimizer: torch.optim.Optimizer | None = None
        self._epoch = 0

    def get_optimizers_schedulers(
        self, estimated_global_steps_per_epoch: int, epochs: int
    ) -> tuple[list[torch.optim.Optimizer], Schedulers]:
        """AdamW with a warm-up, a decay, and the spike."""
        steps = estimated_global_steps_per_epoch

        def rate(step: int) -> float:
            if step // steps == _SPIKE:
                return 10.0
            return min(1.0, (step + 1) / (2 * steps)) * (1 - step / (steps * epochs * 1.1))

        self._optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        return [self._optimizer], [torch.optim.lr_scheduler.LambdaLR(self._optimizer, rate)]

    def on_begin_train_epoch(self, global_step: int, epoch: int) -> None:  # noqa: ARG002 - the interface's
        """Stops the process where it should be."""
        self._epoch = epoch
        if os.environ.get(_STOPS_AT) == str(epoch):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_end_val_epoch(self, global_step: int, *outputs: Any, key: str = "default") -> None:
        """Keeps the learning rate, too."""
        super().on_end_val_epoch(global_step, *outputs, key=key)
        if self._optimizer is not None:
            self.metrics |= {"learning_rate": self._optimizer.param_groups[0]["lr"]}

    def on_end_train_epoch(self, global_step: int, *outputs: Any) -> None:
        """Overflows."""
        super().on_end_train_epoch(global_step, *outputs)
        if self._epoch == _OVERFLOW:
            with torch.no_grad():
                self.get_parameter("blocks.2.mlp.0.weight")[:8] = torch.nan


def make(directory: Path) -> None:
    """Trains, is stopped, resumes, and cuts a file.

    Args:
        directory: where the checkpoints go; it must not be there.

    Raises:
        subprocess.CalledProcessError: a training ends otherwise than it should.
    """
    directory.mkdir(parents=True)
    config = directory.parent / f"{directory.name}.yaml"
    config.write_text(CONFIG.format(directory=directory), encoding="utf-8")
    command = [sys.executable, "-m", "marlin_ckpt", "train", "--config", str(config), "--resume", "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as fast for so small a model, and the same anywhere
    for stops_at, code in (("9", 128 + signal.SIGTERM), ("", 0)):
        environment[_STOPS_AT] = stops_at
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, check=False)  # noqa: S603 - ours
        if done.returncode != code:
            raise subprocess.CalledProcessError(done.returncode, command)
    cut = directory / f"model_{_CUT}.pt"
    os.truncate(cut, cut.stat().st_size // 2)


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
