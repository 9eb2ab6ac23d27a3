"""A sharded checkpoint as all ranks see it: rank 0 looks at it, and tells the others what is there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from isal import isal_zlib

from marlin_ckpt.directory import catalog
from marlin_ckpt.distributed.failures import told_by_main
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.reads.index import ColumnIndex, Index, PlainIndex
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError, CorruptCheckpointError, NotACheckpointError
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.layouts.dcp import ours
from marlin_ckpt.formats.layouts.dcp.columns.reading import read_columns
from marlin_ckpt.formats.layouts.dcp.faults import faults_in
from marlin_ckpt.formats.layouts.dcp.metadata import of_columns, whole_metadata
from marlin_ckpt.formats.layouts.dcp.saved import METADATA, Saved, metadata_files, saved_in, saved_of
from marlin_ckpt.formats.layouts.folder import files_of
from marlin_ckpt.formats.layouts.members import Folder
from marlin_ckpt.formats.layouts.parts import listed
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.shards.reader import read_shard
from marlin_ckpt.formats.shards.trailer import Shard
from marlin_ckpt.formats.values.sharded import MOST_OPEN, Reopened
from marlin_ckpt.formats.values.window import Memory
from marlin_ckpt.formats.zip.records import holds
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.paths import open_store
from marlin_ckpt.storage.source import Source

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

    from marlin_ckpt.storage.store import Store

LAYOUTS = ("sharded", "dcp")  # that are loaded here: ours, and torch's own
_MOST_SAID = 3  # sentences of what is wrong
_LONGEST = 100  # characters of a name in a message
_MANY_PIECES = 16  # of a tensor: fewer are looked up faster as objects than as columns


@dataclass(frozen=True)
class _Told:
    """What rank 0 has read."""

    entry: Entry
    metadata: dict[str, bytes]
    manifest: Manifest | None = None


class File(NamedTuple):
    """A shard that is open; what it says of itself, where it is of ours."""

    source: Source
    shard: Shard | None


@dataclass
class Sharded:
    """A sharded checkpoint that is open.

    Attributes:
        path: of the folder, for messages.
        manifest: None of one that another tool wrote.
        index: what its metadata says is in which shard.
    """

    path: str
    manifest: Manifest | None
    index: Index
    _metadata: dict[str, bytes]
    _folder: Folder
    _stack: contextlib.ExitStack
    _files: dict[str, File] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def torch_metadata(self) -> Metadata:
        """What the folder says of itself, as torch has it.

        Raises:
            CorruptCheckpointError: each rank has written its own.
            UnsafeCheckpointError: it names what no metadata has.
        """
        if METADATA not in self._metadata:
            raise CorruptCheckpointError(f"{METADATA} is missing, there is only that of each rank", self.path)
        from marlin_ckpt.distributed.metadata import of_saved  # noqa: PLC0415 - with all of DCP

        return of_saved(_saved(self._metadata, self.path), self.path)

    def file(self, name: str) -> File:
        """Opens a shard, once; from any thread.

        Raises:
            CorruptCheckpointError: it is missing, damaged, or of another save.
            UnknownFormatError: a newer marlin-ckpt wrote it.
            StorageError: it cannot be read.
        """
        with self._lock:
            if name not in self._files:
                self._files[name] = self._opened(name)
            return self._files[name]

    def _opened(self, name: str) -> File:
        try:
            if len(self._files) < MOST_OPEN:
                source: Source = self._stack.enter_context(self._folder.open(name))
            else:
                source = Reopened(self._folder.open, name)
        except CheckpointNotFoundError as error:
            raise self._lacks(name) from error
        about = None if self.manifest is None else self.manifest.sharded
        if about is None:
            return File(source, None)
        shard = read_shard(source)
        if shard is None or shard.about.save_id != about.save_id:
            of = "no save of marlin-ckpt" if shard is None else f"another save, {shard.about.save_id}"
            what = f"{name} is of {of}, and not of {about.save_id}, as its checkpoint"
            raise CorruptCheckpointError(what, self.path, tensors=self.index.names_in(name))
        return File(source, shard)

    def _lacks(self, file: str) -> CorruptCheckpointError:
        names = self.index.names_in(file)
        what = f"{file} is missing, which holds {listed([one[:_LONGEST] for one in names])}"
        return CorruptCheckpointError(what, self.path, tensors=names)


@contextlib.contextmanager
def opened(path: str, ranks: Ranks) -> Iterator[Sharded]:
    """Opens a sharded checkpoint; all ranks call this.

    Rank 0 lists the folder, and reads and checks what it says of itself; the others are told.

    Args:
        path: of the folder.
        ranks: which load it together.

    Raises:
        CheckpointNotFoundError: there is no such folder.
        NotACheckpointError: it is none.
        CorruptCheckpointError: a file is missing, or does not hold; all ranks raise the same.
        BadFileError, StorageError: as `read_metadata` raises them.
    """
    told = told_by_main(ranks, lambda: _checked(path))
    entry = told.entry._replace(place=os.path.dirname(path.rstrip("/")) or os.curdir)
    index = _index(told.metadata, path)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(open_store(entry.place))
        yield Sharded(path, told.manifest, index, told.metadata, Folder(store, entry), stack)


def _checked(path: str) -> _Told:
    try:
        return _read(path)
    except CorruptCheckpointError as error:
        error.hint = error.hint or hint_at(path)
        raise


def hint_at(path: str) -> str:
    """What to do about a checkpoint that is damaged."""
    return f"`marlin-ckpt verify {path}` lists all that is damaged"


def _read(path: str) -> _Told:
    entry = catalog.entry(path)
    if entry is None and not os.path.isdir(path):
        raise CheckpointNotFoundError("no such folder", path)
    if entry is None or entry.layout not in LAYOUTS:
        raise NotACheckpointError("not a sharded checkpoint", path)
    with open_store(entry.place) as store:
        folder = Folder(store, entry)
        manifest = _manifest(store, entry, folder)
        found = {}
        for name in metadata_files(folder):
            with folder.open(name) as source:
                found[name] = whole_metadata(source)
    if not found:
        raise CorruptCheckpointError(f"the save did not finish: {METADATA} is missing", path)
    if manifest is not None:
        _compare(found, manifest, path)
        return _Told(entry, found, manifest)
    faults = faults_in(_saved(found, path), folder.items)
    if wrong := [*faults.missing, *faults.wrong]:
        names = tuple(dict.fromkeys(faults.names))
        raise CorruptCheckpointError("; ".join(wrong[:_MOST_SAID]), path, tensors=names)
    return _Told(entry, found)


def _index(found: dict[str, bytes], path: str) -> Index:
    data = found.get(METADATA, b"")
    columns = read_columns(data)
    if columns is None:
        return PlainIndex(_saved(found, path), path)
    if len(columns.places.name) > _MANY_PIECES * len(columns.texts):
        return ColumnIndex(columns, path)
    whole = of_columns(columns, len(data), f"{path}/{METADATA}")
    return PlainIndex(saved_of({METADATA: whole}, path), path)


def _saved(found: dict[str, bytes], path: str) -> Saved:
    return saved_in({name: Memory(f"{path}/{name}", memoryview(data)) for name, data in found.items()}, path)


def _manifest(store: Store, entry: Entry, folder: Folder) -> Manifest | None:
    """The manifest of a folder of ours, whose files have the lengths that it says; None of another tool's."""
    layout = layouts.named(entry.layout)
    if not layout.is_ours:
        return None
    found = layout.inspect(store, entry)
    if found.status is not None and found.status.is_bad:
        lost = () if found.manifest is None else ours.lost(folder, files_of(found.manifest, entry.path))
        what = found.reason + (f", with {listed([one[:_LONGEST] for one in lost])}" if lost else "")
        raise CorruptCheckpointError(what, entry.path, tensors=lost)
    return found.manifest


def _compare(found: dict[str, bytes], manifest: Manifest, path: str) -> None:
    """Compares `.metadata` with the checksum that the manifest has of it."""
    rows = {row["name"]: Record(row["name"], row["size"], row["crc32"], 0) for row in manifest.records}
    for name, data in found.items():
        if name not in rows or not holds(rows[name], isal_zlib.crc32(data)):
            raise CorruptCheckpointError(f"the CRC of {name} does not hold", path)
