"""A folder that appears in a directory whole, durable and with checksums, or not at all."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.directory import leftovers
from marlin_ckpt.entries import Item
from marlin_ckpt.errors import (
    ArgumentsError,
    CheckpointNotFoundError,
    Fault,
    StorageError,
    UnsavableStateError,
)
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.layouts import folder
from marlin_ckpt.formats.manifest import Manifest, most_bytes
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.storage.local import publishing, staging, temporary
from marlin_ckpt.storage.local.files import absolute, close_quietly, doing, file_kind
from marlin_ckpt.storage.local.store import LocalStore, open_store
from marlin_ckpt.storage.store import levels_below
from marlin_ckpt.storage.sums import sums
from marlin_ckpt.storage.target import Target
from marlin_ckpt.urls import refuse

_RESERVED = ("", ".", "..", naming.TRASH, naming.OWN_DIRECTORY, naming.MANIFEST.partition("/")[0])


class Transaction:
    """A context manager that yields the absolute path of an empty folder to be filled.

    When the block ends, every file in the folder is read for its CRC32 and made durable, these are written to
    a manifest, and the folder gets its name; then what had the name before is removed. When the block raises,
    KeyboardInterrupt included, nothing of it is left, and what had the name stands. A process that is killed
    leaves a temporary folder, which the next transaction in the directory, every sweep and `clean` remove.

    Files in it may be hard links to others, and have the modes that they were made with. Whatever writes to
    the folder must have ended with the block: what a thread or another process still writes is refused where
    it is noticed, and else published with checksums that do not hold. Of two transactions for one name that
    overlap, the one that ends last replaces the other's folder, or is refused where it may not overwrite. A
    child process that was forked in the block cannot publish; the folder stays its parent's.

    Attributes:
        path: that the folder will have.
        manifest: of the folder, without its records and layout; may be replaced until the block ends.
        report: what it took, once it is durable; None before.
    """

    def __init__(self, directory: PathText, name: str, *, manifest: Manifest, overwrite: bool = True) -> None:
        """Nothing is made before the block begins.

        Args:
            directory: where the folder is to appear; made if it is missing.
            name: of the folder, without "/".
            manifest: what is saved, without its records and layout, which are filled in.
            overwrite: a folder that has the name is replaced, in one instant; else it is an error, at the
                beginning and at the end of the block.

        Raises:
            ArgumentsError: no folder may have this name.
            StorageError: the directory is relative, and there is no working directory any more; or it is in
                an object store.
        """
        if name in _RESERVED or "/" in name or "\0" in name or temporary.is_temporary(name):
            raise ArgumentsError([Fault("name", f"expected the name of a folder, not {name!r}")])
        refuse(directory, "folders", "save a file there")
        self._directory = absolute(directory)
        self._name = name
        self.path = os.path.join(self._directory, name)
        self.report: SaveReport | None = None
        self.manifest = manifest
        self._overwrite = overwrite
        self._pid = self._fd = self._lock = -1
        self._staged = ""

    def __enter__(self) -> str:
        """Makes the folder.

        Returns:
            its path.

        Raises:
            StorageError: a folder of the name exists and is not to be overwritten, or something that is no
                folder has the name, or a system call failed.
        """
        leftovers.sweep_beside(self.path)
        publishing.make_directory(self._directory)
        with doing("cannot write", self.path), contextlib.ExitStack() as stack:
            self._fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(close_quietly, self._fd)
            staging.check_free(self._fd, self._name, self.path, overwrite=self._overwrite)
            self._pid = os.getpid()
            self._lock, self._staged = staging.create(self._fd, self._name)
            stack.pop_all()
        return os.path.join(self._directory, self._staged)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Publishes the folder, or removes it after an error of the block's or its own.

        Raises:
            StorageError: a system call failed, something in the folder is neither file nor folder, the name
                is taken, or this is a child process that was forked in the block.
        """
        if os.getpid() != self._pid:
            close_quietly(self._lock)
            close_quietly(self._fd)
            if error is None:
                raise StorageError("a forked process cannot publish the folder of its parent", self.path)
            return
        is_published = False
        try:
            if error is None:
                with doing("cannot write", self.path):
                    self.report = self._publish()
                is_published = True
        finally:
            if is_published:
                staging.release(self._lock)
            else:
                staging.discard(self._fd, self._staged, self._lock)
            close_quietly(self._fd)

    def _publish(self) -> SaveReport:
        began = time.perf_counter()
        staged = os.path.join(self._directory, self._staged)
        try:
            items, records, was_read = self._make_durable(staged)
        except CheckpointNotFoundError as error:
            raise self._refusal("it has vanished", os.path.relpath(error.where, staged)) from error
        data = replace(self.manifest, records=records, layout=folder.NAME).to_json()
        if len(data) > (most := most_bytes(one.name for one in items)):
            raise UnsavableStateError(f"the metrics take {len(data):,} bytes, more than {most:,}", self.path)

        def fill(target: Target) -> None:
            target.put(data)

        manifest = os.path.join(staged, naming.MANIFEST)
        publishing.make_directory(os.path.dirname(manifest))
        publishing.publish(manifest, fill, len(data))
        staging.publish(self._fd, self._staged, self._name, self.path, overwrite=self._overwrite)
        ended = time.perf_counter()
        return SaveReport(
            path=self.path,
            is_model=self.manifest.kind is naming.Kind.MODEL,
            index=self.manifest.index,
            size_bytes=sum(one.size_bytes for one in items) + len(data),
            stall_s=ended - began,
            copy_s=0.0,
            write_s=was_read - began,
            sync_s=ended - was_read,
            metrics=dict(self.manifest.metrics),
        )

    def _make_durable(self, staged: str) -> tuple[list[Item], list[dict[str, Any]], float]:
        """Reads and syncs all files; returns them, their records, and when all were read."""
        with open_store(staged, follows=False) as store:
            items = list(self._items(store))
            opening = ((one.name, store.open(one.name)) for one in items)
            records = [
                {"name": one.name, "size": one.size_bytes, "crc32": one.crc32} for one in sums(opening)
            ]
            was_read = time.perf_counter()
            publishing.make_durable(staged)
            for before, record in zip(items, records, strict=True):
                if record["size"] != before.size_bytes or store.head(before.name) != before:
                    raise self._refusal("it is still being written", before.name)
        return items, records, was_read

    def _items(self, store: LocalStore) -> Iterator[Item]:
        """The files in the folder, but for a manifest that is copied from another one."""
        for level, listing in levels_below(store):
            for name in store.unfinished(level):
                raise self._refusal("it is still being written", name)
            for name in sorted(listing.objects):
                item = store.head(name)
                if item is None or item.is_link:
                    raise self._refusal(self._kind(name), name)
                if name != naming.MANIFEST:
                    yield item

    def _kind(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(os.path.join(self._directory, self._staged, name)).st_mode
            return f"it is {file_kind(mode)}" if not stat.S_ISREG(mode) else "it cannot be read"
        return "it has vanished"

    def _refusal(self, why: str, name: str) -> StorageError:
        return StorageError(f"refused to save {name}: {why}", self.path)
