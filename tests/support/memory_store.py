"""A store in memory, whose calls can be made to fail."""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator

from marlin_ckpt.entries import Identity, Item
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.storage.store import Listing
from marlin_ckpt.storage.target import Fill, OnStored, Span


class MemorySource:
    """Bytes as a `Source`."""

    def __init__(self, data: bytes, path: str) -> None:
        self._data = data
        self.path = path
        self.size_bytes = len(data)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        piece = self._data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


class MemoryTarget:
    """Gathers what an object is to hold."""

    def __init__(self) -> None:
        self.data = bytearray()

    def put(
        self,
        data: bytes | memoryview,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,
    ) -> int:
        self.data += data
        if on_stored is not None:
            on_stored(memoryview(data))
        return zlib.crc32(data)


class MemoryStore:
    """Objects in a dict, as an object store keeps them: folders are there as long as something is in them.

    `fail(number, code)` makes the call of a number fail, counted from the next one; a call that fails has
    changed nothing. What `publish` was still writing when the process ended lies in `uploads`, as unfinished.
    """

    has_append = True

    def __init__(self, place: str = "memory") -> None:
        self.place = place
        self.uploads: dict[str, bytes] = {}
        self.calls: list[str] = []
        self._objects: dict[str, tuple[bytes, int]] = {}
        self._changes = 0
        self._failures: dict[int, int] = {}

    def fail(self, number: int, code: int) -> None:
        self._failures[len(self.calls) + number] = code

    def list(self, folder: str = "") -> Listing:
        self._called("list", folder)
        before = f"{folder}/" if folder else ""
        rest = [name.removeprefix(before) for name in self._objects if name.startswith(before)]
        if folder and not rest:
            raise CheckpointNotFoundError("no such folder", self._path(folder))
        folders = {before + one.partition("/")[0] for one in rest if "/" in one}
        return Listing(tuple(before + one for one in rest if "/" not in one), tuple(folders))

    def head(self, name: str) -> Item | None:
        self._called("head", name)
        return self._head(name)

    def _head(self, name: str) -> Item | None:
        if name in self.uploads:
            return Item(name, len(self.uploads[name]), 0, ("upload", name))
        if name in self._objects:
            data, change = self._objects[name]
            return Item(name, len(data), change, (change,))
        below = [change for one, (_, change) in self._objects.items() if one.startswith(f"{name}/")]
        return Item(name, 0, max(below), (max(below), len(below)), is_folder=True) if below else None

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[MemorySource]:
        self._called("open", name)
        if name not in self._objects:
            raise CheckpointNotFoundError("no such object", self._path(name))
        yield MemorySource(self._objects[name][0], self._path(name))

    def publish(self, name: str, size_bytes: int, fill: Fill, *, replaces: Identity | None = None) -> Item:
        self._called("publish", name)
        target = MemoryTarget()
        upload = f"{name}.upload"
        try:
            fill(target)
        except BaseException as error:
            if not isinstance(error, Exception):  # the process ends
                self.uploads[upload] = bytes(target.data)
            raise
        if len(target.data) != size_bytes:
            raise StorageError("another size than was announced", self._path(name))
        if self._identity(name) != replaces:
            raise self._another(name)
        return self._put(name, bytes(target.data))

    def move(self, name: str, to: str, identity: Identity) -> None:
        self._called("move", name)
        self._check(name, identity)
        if self._head(to) is not None:
            taken = OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            raise StorageError.of("cannot move", self._path(to), taken)
        for one in self._all(name):
            data, change = self._objects.pop(one)
            self._objects[to + one[len(name) :]] = (data, change)

    def remove(self, name: str, identity: Identity) -> None:
        self._called("remove", name)
        self._check(name, identity)
        if self.uploads.pop(name, None) is None:
            for one in self._all(name):
                del self._objects[one]

    def remove_empty(self, folder: str) -> None:
        self._called("remove_empty", folder)

    def free_space(self) -> int | None:
        return None

    def unfinished(self, folder: str = "") -> tuple[str, ...]:
        self._called("unfinished", folder)
        return tuple(name for name in self.uploads if os.path.dirname(name) == folder)

    def is_unfinished(self, name: str) -> bool:
        return name in self.uploads

    def is_abandoned(self, name: str) -> bool:
        return name in self.uploads

    def append(self, name: str, data: bytes) -> None:
        self._called("append", name)
        self._put(name, self._objects.get(name, (b"", 0))[0] + data)

    def _called(self, verb: str, name: str) -> None:
        if any(part in ("", ".", "..") for part in name.split("/") if name):
            raise StorageError("not a name in a store", self._path(name), errno=errno.EINVAL)
        self.calls.append(f"{verb} {name}")
        if code := self._failures.pop(len(self.calls) - 1, 0):
            raise StorageError.of("injected", self._path(name), OSError(code, os.strerror(code)))

    def _put(self, name: str, data: bytes) -> Item:
        self._changes += 1
        self._objects[name] = (data, self._changes)
        return Item(name, len(data), self._changes, (self._changes,))

    def _all(self, name: str) -> list[str]:
        return [one for one in self._objects if one == name or one.startswith(f"{name}/")]

    def _identity(self, name: str) -> Identity | None:
        found = self._head(name)
        return None if found is None else found.identity

    def _check(self, name: str, identity: Identity) -> None:
        found = self._identity(name)
        if found is None:
            raise CheckpointNotFoundError("no such object", self._path(name))
        if found != identity:
            raise self._another(name)

    def _another(self, name: str) -> StorageError:
        return StorageError("another file has taken its place", self._path(name), errno=errno.ESTALE)

    def _path(self, name: str) -> str:
        return os.path.join(self.place, name)
