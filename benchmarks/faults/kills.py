"""Kills trainings while they save, with a package's own checkpoints and with ours, and starts them again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[2]
_STOCK = "stock"


@dataclass(frozen=True)
class Kills:
    """What became of trainings that were killed once and then started again as they were at first.

    Attributes:
        tool: the package that trains.
        ours: whether it saves through our adapter, or by itself.
        setting: how it was told to keep checkpoints, by itself.
        kinds: how many ways of saving through our adapter were tried.
        killed: how many trainings were killed before they ended.
        unresumable: how many of these ended in an error when they were started again.
        different: how many ended with other weights than a training that nobody has killed.
    """

    tool: str
    ours: bool
    setting: str
    kinds: int
    killed: int
    unresumable: int
    different: int

    def line(self) -> str:
        """What became of them, for a terminal."""
        how = "marlin-ckpt" if self.ours else "its own checkpoints"
        return (
            f"{self.tool} with {how}: of {self.killed} killed trainings {self.unresumable} cannot go on, "
            f"{self.different} end with other weights"
        )


@dataclass(frozen=True)
class Training:
    """Trainings of a package that `tests/support` can kill.

    Attributes:
        tool: the package's name.
        module: what is imported of it.
        script: the module that runs them, what it is asked for, and its arguments after the count of kills.
        setting: how the package is told to keep checkpoints.
    """

    tool: str
    module: str
    script: tuple[str, str, tuple[str, ...]]
    setting: str


TRAININGS = (
    Training("Lightning", "lightning", ("lightning_runs", "kills", ()), "save_top_k=1, save_last='link'"),
    Training("Transformers", "transformers", ("trainer_kills", "all", ("{count}",)), "save_total_limit=2"),
    Training("Accelerate", "accelerate", ("accelerate_runs", "kills", ()), "total_limit=2"),
    Training("Ignite", "ignite", ("ignite_runs", "kills", ("1",)), "n_saved=1, as by default"),
)


def kill_each(count: int, leave_out: Callable[[str], None], tell: Callable[[str], None]) -> list[Kills]:
    """Kills so many trainings of each kind: half before a system call of a save, half at any time.

    Args:
        count: how many of each kind.
        leave_out: called with a sentence about each package that is left out.
        tell: called with what has been measured so far.
    """
    found = []
    for training in TRAININGS:
        if find_spec(training.module) is None:
            leave_out(f"{training.module} is not installed and left out")
            continue
        found += rows(training, _run(training, count))
        for one in found[-2:]:
            tell(one.line())
    return found


def _run(training: Training, count: int) -> dict[str, Any]:
    name, asked, more = training.script
    arguments = [str(count), *(word.format(count=count) for word in more)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", f"tests.support.{name}", asked, folder, *arguments]
        done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} fails:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    inner: dict[str, Any] = found.get("kills", found)
    return inner


def rows(training: Training, found: dict[str, Any]) -> list[Kills]:
    """The package's own first, then ours, all ways of saving through our adapter together.

    Args:
        training: whose they are.
        found: what its script has printed, of each way of saving.
    """
    # Lightning's AsyncCheckpointIO is no row: in an undisturbed run it may remove the file that it saves.
    stock = [one for name, one in found.items() if name in {_STOCK, f"{_STOCK}, link"}]
    ours = [one for name, one in found.items() if not name.startswith(_STOCK)]
    return [
        Kills(
            training.tool,
            ours=kinds is ours,
            setting=training.setting,
            kinds=len(kinds),
            killed=sum(one["killed"] for one in kinds),
            unresumable=sum(len(one["unresumable"]) for one in kinds),
            different=sum(len(one["different"]) for one in kinds),
        )
        for kinds in (stock, ours)
    ]
