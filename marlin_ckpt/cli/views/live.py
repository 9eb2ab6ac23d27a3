"""What is drawn on a terminal; the only module that imports rich."""

from __future__ import annotations

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
from rich.table import Table
from rich.text import Text

from marlin_ckpt.cli.views.text import escape


class LiveBar:
    """One line: epoch, bar, step, loss, speed, last checkpoint."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}", markup=False),
            TextColumn("{task.fields[loss]}", markup=False),
            TextColumn("{task.fields[speed]}", markup=False),
            TextColumn("{task.fields[last]}", markup=False),
            console=Console(stderr=True),
            expand=True,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=1, loss="", speed="", last="")

    def start(self) -> None:
        """Draws it, from now on below everything else that is printed."""
        self._progress.start()

    def stop(self) -> None:
        """Takes it away."""
        self._progress.stop()

    def begin(self, description: str, steps: int, done: int) -> None:
        """Starts an epoch of so many steps, some of which may be done."""
        self._progress.reset(self._task, description=description, total=steps, completed=done)

    def advance(self, loss: str, speed: str) -> None:
        """Counts one step."""
        self._progress.update(self._task, advance=1, loss=loss, speed=speed)

    def saved(self, name: str) -> None:
        """Shows the last file."""
        self._progress.update(self._task, last=f"last {escape(name)}")


@contextlib.contextmanager
def bytes_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar that shows how many bytes of a total are done; yields what is told of each further number."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda size: progress.advance(task, size)


@contextlib.contextmanager
def steps_bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar of steps; yields what is told who has done how many."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda name, done: progress.update(task, description=name, completed=done)


def print_table(headers: list[str], rows: list[list[str]], right: set[int]) -> None:
    """Prints a table fitted to the terminal; long cells are folded, never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        # Figures stay whole; what is to the left may be folded.
        if number in right:
            table.add_column(header, justify="right", no_wrap=True)
        else:
            table.add_column(header, overflow="fold")
    for row in rows:
        # Text, not str: brackets in a file's name are no markup.
        table.add_row(*map(Text, row))
    Console().print(table)
