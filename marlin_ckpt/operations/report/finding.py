"""Finds what a report is of: the checkpoints of a directory, and its history."""

from __future__ import annotations

import os
from dataclasses import replace

from marlin_ckpt import grammars, naming
from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.history import reading
from marlin_ckpt.directory.history.events import Event, Removed, Resumed, Saved, SaveFailed
from marlin_ckpt.directory.history.reading import Past
from marlin_ckpt.entries import Entry
from marlin_ckpt.operations.report.course import Point
from marlin_ckpt.storage.local.store import open_store


def entries(directory: str, prefix: str | None, extension: str | None, recursive: bool) -> list[Entry]:
    """The checkpoints of a directory, of whatever tool.

    Args:
        directory: where to look.
        prefix: only checkpoints of this prefix; None: of all.
        extension: only files of this one, without its dot. None: of all usual ones, and if a file's name is
            no checkpoint's it counts only where nothing else is found.
        recursive: sub-directories too.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    if extension is not None:
        return catalog.listed(directory, prefix=prefix, extension=extension, recursive=recursive)
    found: dict[str, Entry] = {}
    for one in naming.EXTENSIONS:
        for entry in catalog.listed(directory, prefix=prefix, extension=one, recursive=recursive):
            found.setdefault(entry.path, entry)
    known = {path: entry for path, entry in found.items() if entry.layout or _is_checkpoint(entry)}
    return list((known or found).values())


def _is_checkpoint(entry: Entry) -> bool:
    stem, extension = naming.split_extension(os.path.basename(entry.path))
    return bool(entry.name or naming.parse_any(f"{stem}.{extension}", extension) or grammars.read(stem))


def history(directory: str, recursive: bool) -> Past:
    """The history of a directory, and of those below it with the names as they are from it.

    Raises:
        StorageError: it cannot be read.
    """
    folders = [""]
    if recursive:
        with open_store(directory) as store:
            folders = [level.folder for level in catalog.readable(store, recursive=True)]
    found = [(folder, reading.read(os.path.join(directory, folder))) for folder in folders]
    events = [_from(folder, event) for folder, past in found for event in past.events]
    return Past(tuple(events), sum(past.unread for _, past in found), sum(past.newer for _, past in found))


def _from(folder: str, event: Event) -> Event:
    if folder and isinstance(event, (Saved, Removed, SaveFailed, Resumed)):
        return replace(event, name=os.path.join(folder, event.name))
    return event


def looked_for(directory: str, point: Point) -> Point:
    """A point that was not found, looked for by its name: it may have another extension than asked for."""
    if point.is_there or point.removed_by:
        return point
    name = os.path.normpath(point.name)
    if os.path.isabs(name) or name.split("/", 1)[0] in ("..", ".", ""):
        return point  # nothing outside is looked at, whatever a history says
    try:
        return replace(point, is_there=os.path.lexists(os.path.join(directory, name)))
    except ValueError:  # no file has a name with a null byte in it
        return point
