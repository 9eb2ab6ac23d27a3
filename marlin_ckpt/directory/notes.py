"""What is known of the runs in a directory of checkpoints, kept in a folder of its own inside it.

It helps and is never needed: what cannot be read counts as not there, what cannot be written is left.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from marlin_ckpt.directory.catalog import entry

OWN_DIRECTORY = ".marlin-ckpt"
_NOTES = "notes.json"
_MOST_BYTES = 1 << 20
_STARTS, _SAVE = "starts", "save_seconds"
MOST_STARTS = 3  # from one checkpoint that may end without a newer one


def read(directory: str, name: str = _NOTES) -> dict[str, Any]:
    """A JSON object from the folder; an empty one where there is none."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with open(os.path.join(directory, OWN_DIRECTORY, name), encoding="utf-8") as file:
            found = json.loads(file.read(_MOST_BYTES))
        if isinstance(found, dict):
            return found
    return {}


def write(directory: str, values: Mapping[str, Any], name: str = _NOTES) -> None:
    """Replaces a JSON object in the folder, which is there if anybody has held the directory's lease."""
    path = os.path.join(directory, OWN_DIRECTORY, name)
    new = f"{path}.new"  # there is one writer: whoever holds the lease
    try:
        with open(new, "w", encoding="utf-8") as file:
            json.dump(values, file)
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)


def save_seconds(directory: str) -> float | None:
    """How long the last save took until it was durable, in seconds; None where that is not known."""
    value = read(directory).get(_SAVE)
    return float(value) if isinstance(value, (int, float)) and value >= 0 else None


def note_save(directory: str, seconds: float) -> None:
    """Notes how long a save took."""
    write(directory, {**read(directory), _SAVE: round(seconds, 3)})


def failed_starts(directory: str) -> dict[str, int]:
    """How many runs in a row began with each checkpoint and came to a bad end before they made a newer one.

    Returns:
        the numbers, above 0, by the files' paths; a file that was replaced meanwhile is another one.
    """
    counts = _starts(read(directory))
    found = {}
    for name, count in counts.items():
        path = os.path.join(directory, name.rpartition("/")[2])
        if _identity(path) == name:
            found[path] = count
    return found


@contextlib.contextmanager
def counted_start(path: str) -> Iterator[None]:
    """Counts a run that begins with a checkpoint, unless it ends as it should: by itself, or by a signal.

    Args:
        path: of the checkpoint, or "" where the run begins anew.
    """
    directory, identity = os.path.dirname(path), _identity(path) if path else ""
    if not identity:
        yield
        return
    notes = read(directory)
    starts = _starts(notes)
    # The others' rows are broken; those that nobody begins with any more stay as they are.
    starts = {name: count for name, count in starts.items() if count >= MOST_STARTS or name == identity}
    before = starts.get(identity, 0)
    write(directory, {**notes, _STARTS: {**starts, identity: before + 1}})
    try:
        yield
    except SystemExit:
        _forget(directory, identity)
        raise
    _forget(directory, identity)


def _forget(directory: str, identity: str) -> None:
    notes = read(directory)
    write(directory, {**notes, _STARTS: {k: v for k, v in _starts(notes).items() if k != identity}})


def _starts(notes: Mapping[str, Any]) -> dict[str, int]:
    starts = notes.get(_STARTS)
    if not isinstance(starts, dict):
        return {}
    return {name: count for name, count in starts.items() if isinstance(count, int) and count > 0}


def _identity(path: str) -> str:
    """What tells a file from another one of its name."""
    found = entry(path)
    return f"{found.size_bytes}/{found.modified_ns}/{os.path.basename(path)}" if found else ""
