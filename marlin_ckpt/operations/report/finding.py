"""Finds what a report is of: the checkpoints of a directory, and its history."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.history import reading
from marlin_ckpt.directory.history.events import Event, Removed, Resumed, Saved, SaveFailed
from marlin_ckpt.directory.history.reading import Past
from marlin_ckpt.errors import StorageError
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.verdicts import Inspection, Status
from marlin_ckpt.operations.report.course import Point
from marlin_ckpt.storage.paths import open_store


def inspected(
    directory: str, prefix: str | None, extension: str | None, *, recursive: bool
) -> list[tuple[str, Inspection]]:
    """What a directory has, of whatever tool, each with its name relative to the directory.

    Args:
        directory: where to look.
        prefix: only checkpoints of this prefix; None: of all.
        extension: only files of this one, without its dot; None: of all usual ones.
        recursive: sub-directories too.

    Returns:
        checkpoints, and files that hold tensors under other names.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    extensions = naming.EXTENSIONS if extension is None else (extension,)
    entries = catalog.listed(directory, prefix=prefix, extension=extensions, recursive=recursive)
    found = ((os.path.relpath(one.path, directory), inspect(one)) for one in entries)
    return [(name, one) for name, one in found if one.entry.name or one.status is not Status.NOT_A_CHECKPOINT]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the past of a directory.

    Attributes:
        past: its history, with the names as they are from the directory.
        faults: why histories cannot be read.
    """

    past: Past = field(default_factory=Past)
    faults: tuple[str, ...] = ()


def history(directory: str, *, recursive: bool) -> Known:
    """The history of a directory, and with `recursive` those of the directories below it.

    Raises:
        StorageError: the directory cannot be read.
    """
    folders = [""]
    if recursive:
        with open_store(directory) as store:
            folders = [level.folder for level in catalog.readable(store, recursive=True)]
    found, faults = [], []
    for folder in folders:
        try:
            found.append((folder, reading.read(os.path.join(directory, folder))))
        except StorageError as error:
            faults.append(str(error))
    events = [_from(folder, event) for folder, past in found for event in past.events]
    unread, newer = (sum(getattr(past, name) for _, past in found) for name in ("unread", "newer"))
    return Known(Past(tuple(events), unread, newer), tuple(faults))


def _from(folder: str, event: Event) -> Event:
    if folder and isinstance(event, (Saved, Removed, SaveFailed, Resumed)):
        return replace(event, name=os.path.join(folder, event.name))
    return event


def looked_for(holds: Callable[[str], bool], point: Point) -> Point:
    """A point that was not found, looked for by its name: it may have another extension than asked for."""
    if point.is_there or point.removed_by:
        return point
    name = os.path.normpath(point.name)
    if os.path.isabs(name) or name.split("/", 1)[0] in ("..", ".", ""):
        return point  # nothing outside is looked at, whatever a history says
    try:
        return replace(point, is_there=holds(name))
    except ValueError:  # no file has a name with a null byte in it
        return point
