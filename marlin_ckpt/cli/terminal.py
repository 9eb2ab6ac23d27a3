"""Bars on stderr, where that is a terminal; the only module that imports rich."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from marlin_ckpt.cli.output import talk_stream
from marlin_ckpt.escaping import escape


class RunBar(Progress):
    """One line below everything else that is printed: epoch, bar, step, loss, speed, last checkpoint."""

    def __init__(self, *, is_shown: bool) -> None:
        steps = "step {task.completed:.0f}/{task.total:.0f}"
        texts = (steps, "{task.fields[loss]}", "{task.fields[speed]}", "{task.fields[last]}")
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            *(TextColumn(text, markup=False) for text in texts),
            console=Console(file=talk_stream()),
            disable=not is_shown,
            expand=True,
            transient=True,
        )
        self._task = self.add_task("starting", total=1, loss="", speed="", last="")

    def begin(self, description: str, steps: int, done: int) -> None:
        """Starts an epoch of so many steps, some of which may be done."""
        self.reset(self._task, description=description, total=steps, completed=done)

    def step(self, loss: str, speed: str) -> None:
        """Counts one step."""
        self.update(self._task, advance=1, loss=loss, speed=speed)

    def saved(self, name: str) -> None:
        """Shows the last file."""
        self.update(self._task, last=f"last {escape(name)}")


@contextlib.contextmanager
def bytes_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Shows how many bytes of a total are done; yields a function that takes each further number of bytes."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=talk_stream()), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda size: progress.advance(task, size)


@contextlib.contextmanager
def steps_bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """Shows a bar of steps; yields a function that takes the name of a run and how many steps are done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=talk_stream()), transient=True) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda name, done: progress.update(task, description=name, completed=done)
