"""The small objects that a directory in a store has for our own bookkeeping."""

import contextlib
import errno
import json
from collections.abc import Mapping
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.storage.paths import open_remote
from marlin_ckpt.storage.target import whole

_PATIENCE_S = 15.0  # none of them is needed: no run waits long for one


def read(directory: str, name: str, most_bytes: int) -> dict[str, Any]:
    """A JSON object; an empty one where there is none.

    Raises:
        StorageError: it cannot be read.
        ValueError: it is longer than any of ours, or no JSON object.
    """
    with contextlib.suppress(CheckpointNotFoundError), open_remote(directory) as store:
        with store.open(f"{naming.OWN_DIRECTORY}/{name}") as source:
            if source.size_bytes > most_bytes:
                raise ValueError(f"is longer than {most_bytes:,} bytes")
            found = json.loads(source.read(0, source.size_bytes))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004 - of what is in it, not of an argument
        return found
    return {}


def write(directory: str, name: str, values: Mapping[str, Any]) -> None:
    """Replaces a JSON object; where two do at the same time one of them stays.

    Raises:
        StorageError: it cannot be written.
    """
    data = json.dumps(values).encode()
    path = f"{naming.OWN_DIRECTORY}/{name}"
    with open_remote(directory) as store:
        store.guard = None
        store.hurry(_PATIENCE_S)
        found = store.head_object(path)
        try:
            store.publish(path, len(data), whole(data), replaces=found and found.identity)
        except StorageError as error:
            if error.errno not in (errno.ESTALE, errno.EEXIST):
                raise
