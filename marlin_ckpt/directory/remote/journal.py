"""The events of a directory in an object store: each writer has objects of its own, which it writes anew.

An object cannot be appended to. So a process keeps the lines of its last object in memory, and each batch
writes them all; after some 256 KiB it begins another one. Names begin with the time at which an object was
begun, in nanoseconds since 1970, so that a listing has them in order.
"""

import errno
import os
import threading
import time
import uuid
from collections.abc import Iterator

from marlin_ckpt import naming
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.storage.paths import open_remote
from marlin_ckpt.storage.store import Store
from marlin_ckpt.storage.target import whole

_FOLDER = f"{naming.OWN_DIRECTORY}/events"
_MOST_BYTES = 256 << 10  # of one object, which is sent whole for each batch
_LONGEST = 32 << 20  # of an object that is read: anybody may have put it there
_PATIENCE_S = 15.0


class _Open:
    """The object that this process adds to."""

    def __init__(self) -> None:
        self.name = f"{_FOLDER}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
        self.process = os.getpid()
        self.lines = b""
        self.etag: str | None = None


_open: dict[str, _Open] = {}
_changing = threading.Lock()


def _forget() -> None:
    """A forked child has objects of its own, and waits for no thread of its parent."""
    global _changing  # noqa: PLW0603 - of the process
    _changing = threading.Lock()
    _open.clear()


os.register_at_fork(after_in_child=_forget)


def append(directory: str, lines: bytes) -> None:
    """Adds lines to the events of a directory; they are in the store when this returns.

    Raises:
        OSError: they cannot be written.
    """
    with _changing, open_remote(directory) as store:
        store.guard = None
        store.hurry(_PATIENCE_S)  # events are tried again with the next ones, and no save waits long for them
        one = _open.get(directory)
        if one is None or one.process != os.getpid() or len(one.lines) + len(lines) > _MOST_BYTES:
            one = _open[directory] = _Open()
        data = one.lines + lines

        def write(etag: str | None) -> str:
            replaces = None if etag is None else (etag,)
            found = store.publish(one.name, len(data), whole(data), replaces=replaces)
            return str(found.identity[0])

        try:
            one.etag = write(one.etag)
        except StorageError as error:
            if error.errno not in (errno.ESTALE, errno.EEXIST):
                raise
            found, etag = _content(store, one.name)
            if etag and data.startswith(found):  # our own, of which the answer was lost
                one.etag = write(etag)
            else:  # somebody has removed or changed it: what this process has written goes into another one
                one.name, one.etag = _Open().name, None
                one.etag = write(None)
        one.lines = data


def read(directory: str) -> Iterator[bytes]:
    """The lines of a directory's events, object by object in the order in which these were begun.

    Raises:
        OSError: an object cannot be read.
    """
    with open_remote(directory) as store:
        for name in sorted(_names(store)):
            yield from _content(store, name)[0].split(b"\n")[:-1]


def _content(store: Store, name: str) -> tuple[bytes, str]:
    """What is in an object, and its version; nothing of one that has gone, or is too long to be ours."""
    try:
        with store.open(name) as source:
            size = source.size_bytes
            return source.read(0, size) if size <= _LONGEST else b"", str(getattr(source, "etag", ""))
    except CheckpointNotFoundError:
        return b"", ""


def exists(directory: str) -> bool:
    """Whether a directory has events."""
    with open_remote(directory) as store:
        return bool(_names(store))


def _names(store: Store) -> tuple[str, ...]:
    try:
        return store.list(_FOLDER).objects
    except CheckpointNotFoundError:
        return ()
