"""What one of the processes that train together finds, for all; for what is built on Accelerate."""

import os
from collections.abc import Callable
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from marlin_ckpt.errors import StorageError


def agreed(find: Callable[[], Any]) -> Any:
    """What the first process finds, or raises, in every process; all of them have to call it.

    Args:
        find: called in the first process alone; what it returns or raises can be pickled.
    """
    state = PartialState()
    found: list[Any] = [None, None]
    if state.is_main_process:
        try:
            found[0] = find()
        except Exception as error:  # noqa: BLE001 - raised below, in every process
            found[1] = error
    if state.num_processes > 1:
        broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


def fill_together(folder: str, fill: Callable[[], Any]) -> None:
    """Fills a folder from every process, and waits until all have done it; all of them have to call it.

    Args:
        folder: which the first process has made.
        fill: writes what this process has to write.

    Raises:
        StorageError: another process has failed, or does not see the folder.
        Exception: what this one has failed with.
    """
    failure: Exception | None = None
    try:
        _check_seen(folder)
        fill()
    except Exception as error:  # noqa: BLE001 - raised below, when the others know
        failure = error
    try:
        others = [one for one in gather_object([None if failure is None else repr(failure)]) if one]
    except Exception as error:
        if failure is not None:  # which may be why the others cannot be reached any more
            raise failure from error
        raise
    if failure is not None:
        raise failure
    if others:
        raise StorageError(f"another process has failed to save: {others[0]}", os.path.dirname(folder))


def _check_seen(folder: str) -> None:
    if not os.path.isdir(folder):
        what = "the processes do not share this directory, which one folder for all of them needs"
        raise StorageError(what, os.path.dirname(folder))
