"""The events of a directory in an object store: each writer has objects of its own, which it writes anew.

An object cannot be appended to. So a process keeps the lines of its last object in memory, and each batch
writes them all; after some 256 KiB it begins another one. Names begin with the time at which an object was
begun by the store's clock, in nanoseconds since 1970.
"""

import errno
import heapq
import operator
import os
import re
import threading
import uuid
from collections.abc import Iterator

from marlin_ckpt import naming
from marlin_ckpt.entries import Item
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.storage.paths import open_remote
from marlin_ckpt.storage.s3.store import S3Store
from marlin_ckpt.storage.target import whole

_FOLDER = f"{naming.OWN_DIRECTORY}/events"
_MOST_BYTES = 256 << 10  # of one object, which is sent whole for each batch
_LONGEST = 32 << 20  # of an object that is read: anybody may have put it there
_PATIENCE_S = 15.0
_UNSURE_NS = 2 * 10**9  # a store tells its time to a second
_AT = re.compile(rb'\{"at":"([^"]{1,40})"')  # as `lines.to_line` begins


class _Open:
    """The object that this process adds to."""

    def __init__(self, store: S3Store) -> None:
        self.name = f"{_FOLDER}/{int(store.now_s() * 1e9):020d}-{uuid.uuid4().hex[:8]}.jsonl"
        self.process = os.getpid()
        self.lines = b""
        self.etag: str | None = None
        self.is_unsure = False  # whether the last batch has arrived
        self.arrived: list[bytes] = []  # batches of which their writers do not know it yet

    def looks_ours(self, store: S3Store) -> bool:
        """Takes over what is in the object by now; False where that is not what this process has written."""
        found, etag = _content(store, self.name)
        if not found.startswith(self.lines) or not found:
            return False
        if more := found[len(self.lines) :]:
            self.arrived.append(more)
        self.lines, self.etag, self.is_unsure = found, etag, False
        return True

    def without_arrived(self, lines: bytes) -> bytes:
        """What of a batch is still to be written: it is tried again whole, and what came since after it."""
        for batch in self.arrived:
            if lines.startswith(batch):
                self.arrived.remove(batch)
                return lines[len(batch) :]
        return lines


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
        if one is None or one.process != os.getpid():
            one = _open[directory] = _Open(store)
        if one.is_unsure:
            one.looks_ours(store)
        if not (lines := one.without_arrived(lines)):
            return
        if len(one.lines) + len(lines) > _MOST_BYTES and one.lines:
            arrived, one = one.arrived, _Open(store)
            one.arrived = arrived
            _open[directory] = one
        try:
            _add(store, one, lines)
        except StorageError as error:
            if error.errno not in (errno.ESTALE, errno.EEXIST):
                raise
            if one.looks_ours(store):
                if not (lines := one.without_arrived(lines)):
                    return
            else:  # somebody has removed or changed it: what this process has written goes into another one
                one.name, one.etag = _Open(store).name, None
            _add(store, one, lines)


def _add(store: S3Store, one: _Open, lines: bytes) -> None:
    """Writes an object anew with lines more."""
    data, replaces = one.lines + lines, None if one.etag is None else (one.etag,)
    one.is_unsure = True
    one.etag = str(store.publish(one.name, len(data), whole(data), replaces=replaces).identity[0])
    one.lines, one.is_unsure = data, False


def read(directory: str) -> Iterator[bytes]:
    """The lines of a directory's events, in the order in which they were written.

    Where one writer has begun after another's last line the store's clock has their order, and else each
    writer's own.

    Raises:
        OSError: an object cannot be read.
    """
    with open_remote(directory) as store:
        for names in _together(store):
            texts = [_lines(_content(store, name)[0]) for name in names]
            for _, line in heapq.merge(*texts, key=operator.itemgetter(0)):
                yield line


def exists(directory: str) -> bool:
    """Whether a directory has events."""
    with open_remote(directory) as store:
        return any(True for _ in store.items(_FOLDER))
    return False


def _together(store: S3Store) -> Iterator[list[str]]:
    """The names of the objects, those together that were written at the same time."""
    found = sorted((_begun_ns(one), one.name, one.modified_ns) for one in store.items(_FOLDER))
    names: list[str] = []
    until_ns = 0
    for begun_ns, name, modified_ns in found:
        if names and begun_ns > until_ns + _UNSURE_NS:
            yield names
            names = []
        names.append(name)
        until_ns = max(until_ns, modified_ns)
    if names:
        yield names


def _begun_ns(one: Item) -> int:
    number = one.name.rpartition("/")[2].partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() else one.modified_ns


def _lines(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Lines with the latest time that was in them or before."""
    latest = b""
    for line in text.split(b"\n")[:-1]:
        found = _AT.match(line)
        latest = max(latest, found[1] if found else b"")
        yield latest, line


def _content(store: S3Store, name: str) -> tuple[bytes, str]:
    """What is in an object, and its version; nothing of one that has gone, or is too long to be ours."""
    try:
        with store.open(name) as source:
            size = source.size_bytes
            return source.read(0, size) if size <= _LONGEST else b"", str(getattr(source, "etag", ""))
    except CheckpointNotFoundError:
        return b"", ""
