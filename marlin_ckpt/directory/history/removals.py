"""What the history says of checkpoints that went, or came back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.history import journal
from marlin_ckpt.directory.history.events import BroughtBack, Event, Removed
from marlin_ckpt.directory.history.recorder import History
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.storage.local import temporary

if TYPE_CHECKING:
    from marlin_ckpt.directory.removing import Removal


def index_of(path: str) -> int:
    """The index in the name of a file or folder; -1 where it has none."""
    name = os.path.basename(path)
    found = naming.parse_any(name, name.rpartition(".")[2]) or naming.folder_name(name)
    return -1 if found is None else found.index


def size_of(path: str) -> int:
    """The size of a checkpoint in bytes, before it is removed; 0 where it cannot be found out."""
    with contextlib.suppress(MarlinError):
        if found := catalog.entry(path):
            return found.size_bytes
    return 0


def removed(removal: Removal, by: str, run_id: str = "") -> Removed:
    """The event of a removal; for the arguments see `went`."""
    name = os.path.basename(removal.path)
    index, size, why = index_of(name), removal.size_bytes, removal.reason
    return Removed(name=name, index=index, size_bytes=size, reason=why, by=by, run_id=run_id)


def _brought_back(removal: Removal) -> BroughtBack:
    name = os.path.basename(removal.path)
    return BroughtBack(name=name, index=index_of(name), size_bytes=removal.size_bytes)


def went(removals: Iterable[Removal], by: str, run_id: str = "") -> None:
    """Writes that checkpoints were removed, into the histories that there are.

    Args:
        removals: what has gone; its paths say from where.
        by: what removed it, as `Removed` has it.
        run_id: of the run that removed it, if one did.
    """
    _write(removals, lambda one: removed(one, by, run_id))


def came_back(removals: Iterable[Removal]) -> None:
    """Writes that checkpoints were brought back, into the histories that there are."""
    _write(removals, _brought_back)


def _write(removals: Iterable[Removal], event: Callable[[Removal], Event]) -> None:
    found: dict[str, list[Event]] = {}
    for one in removals:
        directory, name = os.path.split(one.path)
        if not temporary.is_temporary(name):
            found.setdefault(directory, []).append(event(one))
    for directory, events in found.items():
        if journal.exists(directory):
            History(directory).write(*events, is_durable=True)
