"""Reads the history of a directory."""

from __future__ import annotations

import os
from dataclasses import dataclass

from marlin_ckpt import naming
from marlin_ckpt.directory import own
from marlin_ckpt.directory.history import journal
from marlin_ckpt.directory.history.events import Event
from marlin_ckpt.directory.history.lines import from_line
from marlin_ckpt.errors import StorageError


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of what happened in a directory.

    Attributes:
        events: in the order in which they were written.
        unread: how many lines are no events: they are damaged, or somebody else's.
        newer: how many are of a kind that a newer marlin-ckpt writes.
    """

    events: tuple[Event, ...] = ()
    unread: int = 0
    newer: int = 0


def read(directory: str) -> Past:
    """The history of a directory; an empty one where nothing was ever written.

    Raises:
        StorageError: it cannot be read.
    """
    events: list[Event] = []
    unread = newer = 0
    try:
        for line in journal.read(directory):
            try:
                event = from_line(line)
            except ValueError:
                unread += 1
                continue
            if event is None:
                newer += 1
            else:
                events.append(event)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        where = os.path.join(directory, naming.OWN_DIRECTORY)
        raise StorageError(f"cannot read the history: {own.why(error)}", where, errno=error.errno) from error
    return Past(tuple(events), unread, newer)
