"""What is known of the runs in a directory of checkpoints, kept in the folder for our own bookkeeping.

It helps and is never needed: what cannot be read counts as not there, what cannot be written is left.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

from marlin_ckpt.directory import own
from marlin_ckpt.directory.catalog import entry
from marlin_ckpt.errors import CorruptCheckpointError, MarlinError, NotACheckpointError
from marlin_ckpt.urls import is_url

_NOTES = "notes.json"
_STARTS, _SAVE, _LAUNCH = "starts", "save_seconds", "launch"
MOST_STARTS = 3  # from one checkpoint that may end without a newer one
_GOOD_EXITS = (None, 0, 130, 143)  # these are 128 + SIGINT and SIGTERM
# What is beyond these was not noted by us: anybody may have written the file.
_MOST_SECONDS = 365 * 86400
_MOST_COUNTED = 1_000_000


def save_seconds(directory: str) -> float | None:
    """How long the last save took until it was durable, in seconds; None where that is not known."""
    value = own.read(directory, _NOTES).get(_SAVE)
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= _MOST_SECONDS else None


def note_save(directory: str, seconds: float) -> None:
    """Notes how long a save took."""
    _note(directory, _SAVE, round(seconds, 3))


def run_of_launch(directory: str, launch: str) -> str | None:
    """The run that was begun by a launch; None where it is another's, or not known.

    Args:
        directory: where it saves.
        launch: its id.
    """
    found = own.read(directory, _NOTES).get(_LAUNCH)
    if not isinstance(found, dict) or found.get("id") != launch:
        return None
    run_id = found.get("run")
    return run_id if isinstance(run_id, str) else None


def note_launch(directory: str, launch: str, run_id: str) -> None:
    """Notes the run that a launch has begun or continued."""
    _note(directory, _LAUNCH, {"id": launch, "run": run_id})


def forget_launch(directory: str) -> None:
    """Forgets which run the last launch has begun."""
    found = own.read(directory, _NOTES)
    if found.pop(_LAUNCH, None) is not None:
        own.write(directory, _NOTES, found)


def failed_starts(directory: str) -> dict[str, int]:
    """How many runs in a row read each checkpoint and came to a bad end before they made a newer one.

    Returns:
        the numbers, above 0, by the files' paths; a file that was replaced meanwhile is another one.
    """
    found = {}
    for name, count in _starts(directory).items():
        path = os.path.join(directory, name.rpartition("/")[2])
        if _identity(path) == name:
            found[path] = count
    return found


@contextlib.contextmanager
def counted_start(path: str) -> Iterator[Callable[[], None]]:
    """Counts a run from when it reads a checkpoint, unless it ends for a reason that is not the checkpoint.

    Args:
        path: of the checkpoint, or "" where the run begins anew.

    Returns:
        a context whose value is a function that stops counting the run, for one that ends at once.
    """
    directory, identity = os.path.dirname(path), _identity(path) if path else ""
    if not identity:
        yield lambda: None
        return
    # The others' rows are broken; those that nobody begins with any more stay as they are.
    starts = _starts(directory)
    starts = {name: count for name, count in starts.items() if count >= MOST_STARTS or name == identity}
    _note(directory, _STARTS, {**starts, identity: starts.get(identity, 0) + 1})
    process = os.getpid()
    try:
        yield lambda: _forget(directory, identity)
    except BaseException as error:
        # In a process that a user's code has forked, it is not the run that ends.
        if os.getpid() == process and not _may_be_of_the_checkpoint(error):
            _forget(directory, identity)
        raise
    _forget(directory, identity)


def _may_be_of_the_checkpoint(error: BaseException) -> bool:
    """Whether a run that ended so might end well with another checkpoint.

    Errors of ours say themselves what is wrong; those of the system tell of the machine: a full disk, missing
    data, no network.
    """
    if isinstance(error, (CorruptCheckpointError, NotACheckpointError)):
        return True
    if isinstance(error, SystemExit):
        return error.code not in _GOOD_EXITS
    return not isinstance(error, (MarlinError, OSError, KeyboardInterrupt))


def _forget(directory: str, identity: str) -> None:
    starts = _starts(directory)
    starts.pop(identity, None)
    _note(directory, _STARTS, starts)


def _note(directory: str, key: str, value: object) -> None:
    own.write(directory, _NOTES, {**own.read(directory, _NOTES), key: value})


def _starts(directory: str) -> dict[str, int]:
    starts = own.read(directory, _NOTES).get(_STARTS)
    if not isinstance(starts, dict):
        return {}
    return {
        name: count for name, count in starts.items() if isinstance(count, int) and 0 < count <= _MOST_COUNTED
    }


def _identity(path: str) -> str:
    """What tells a file from another one of its name."""
    found = entry(path)
    if not found:
        return ""
    # A store tells times to a second, in which an object may be replaced by one of its size.
    version = f"{found.item.identity[0]}/" if is_url(path) and found.item.identity else ""
    return f"{version}{found.size_bytes}/{found.modified_ns}/{os.path.basename(path)}"
