"""What a checkpointer reports of its saves, and how long they take."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

from marlin_ckpt.directory import notes
from marlin_ckpt.reports import SaveReport


class Accounting:
    """Hands out the reports of saves, and remembers how long the last checkpoint took."""

    def __init__(self) -> None:
        self._save_s: float | None = None
        self._is_running = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While a trainer trains, `take` also notes in the directory how long a save takes."""
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False

    def take(self, reports: deque[SaveReport], directory: str) -> list[SaveReport]:
        """Returns the reports and clears them.

        Args:
            reports: of the saves that have become durable since the last call.
            directory: that the checkpoints are saved into.
        """
        taken = [reports.popleft() for _ in range(len(reports))]
        for one in taken:
            if not one.is_model:
                self._save_s = one.stall_s + one.copy_s + one.write_s + one.sync_s
        if taken and self._is_running and self._save_s is not None:
            notes.note_save(directory, self._save_s)
        return taken

    def usual_save_s(self, directory: str) -> float | None:
        """How long the last checkpoint took until it was durable, in seconds, by the notes if need be."""
        return notes.save_seconds(directory) if self._save_s is None else self._save_s
