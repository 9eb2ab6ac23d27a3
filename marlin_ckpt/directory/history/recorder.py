"""Notes what happens in a run, and writes it when a save is durable, so that the loop waits for no disk."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque

from marlin_ckpt import naming
from marlin_ckpt.directory import own
from marlin_ckpt.directory.history import journal
from marlin_ckpt.directory.history.events import Event
from marlin_ckpt.directory.history.lines import to_line
from marlin_ckpt.escaping import get_logger

_MOST_WAITING = 10_000  # events, where they cannot be written for long

_logger = get_logger("marlin_ckpt.history")


class History:
    """The history of one directory, as one process writes it.

    It helps and is never needed: what cannot be written is logged once, kept in memory, and tried again with
    the next.

    Args:
        directory: of checkpoints.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._waiting: deque[Event] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._warned_of = ""
        self._waits = True

    def note(self, *events: Event) -> None:
        """Keeps events in memory until the next `write`; touches no disk."""
        self._forget_parent()
        self._waiting.extend(events)

    def write(self, *events: Event, is_durable: bool = False) -> None:
        """Writes events, and before them those that were noted. Only the first rank writes any.

        Args:
            events: what to write.
            is_durable: return when all are on the disk.
        """
        self.note(*events)
        # Where a signal's handler has interrupted this very function, what it writes waits for the next call.
        if not self._lock.acquire(timeout=journal.PATIENCE_S):
            return
        try:
            self._write(is_durable=is_durable)
        except Exception as error:  # noqa: BLE001 - no save fails for its history
            self._warn(own.why(error))
        finally:
            self._lock.release()

    def _write(self, *, is_durable: bool) -> None:
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._waiting.popleft())
        if not (taken and _is_first_rank()):
            return
        try:
            lines = b"".join(map(_line, taken))
            journal.append(self.directory, lines, is_durable=is_durable, waits=self._waits)
        except OSError as error:
            self._waits = error.errno != errno.EAGAIN  # whoever keeps the lock may never let it go
            self._waiting.extendleft(reversed(taken))
            raise
        self._waits = True

    def _forget_parent(self) -> None:
        """In a forked child, leaves the parent's events to the parent."""
        if self._process != os.getpid():
            self._process, self._lock = os.getpid(), threading.Lock()
            self._waiting.clear()

    def _warn(self, why: str) -> None:
        if why != self._warned_of:
            self._warned_of = why
            place = os.path.join(self.directory, naming.OWN_DIRECTORY)
            _logger.warning("The history in %s is not written: %s", place, why)


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") in ("", "0")  # as torchrun sets it


def _line(event: Event) -> bytes:
    line = to_line(event)
    if len(line) > journal.LONGEST_LINE:  # of metrics, or of an error that quotes its data
        line = to_line(type(event)(run_id=event.run_id, at=event.at))
    return line
