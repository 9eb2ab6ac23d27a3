"""The layout `sharded`: what the ranks of a run wrote together, `{prefix}_{index}.dcp`.

The folder is one of torch's Distributed Checkpoint, with a manifest of ours that lists its files. This module
is imported by commands that read names alone, and imports what reads content when it is needed.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from marlin_ckpt.errors import CorruptCheckpointError, StorageError
from marlin_ckpt.formats.layouts.folder import (
    FolderLayout,
    compare,
    differing,
    files_of,
    listed,
    read_manifest,
)
from marlin_ckpt.naming import MANIFEST, SHARDED, SHARDS

if TYPE_CHECKING:
    from marlin_ckpt.entries import Entry
    from marlin_ckpt.formats.content.contents import Contents
    from marlin_ckpt.formats.layouts.dcp.saved import Saved
    from marlin_ckpt.formats.layouts.layout import Names
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.manifest import Manifest, Sharded
    from marlin_ckpt.formats.statistics import Columns
    from marlin_ckpt.formats.verdicts import Inspection, Verdict
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.storage.store import Store

NAME = SHARDED
OWN_VALUES = ".marlin."  # begins the names of values that no state has
_METADATA, _SHARD = ".metadata", ".distcp"
# Near the start of every manifest of ours, whose keys are sorted.
_HEAD_BYTES = 1024
_OURS, _KEY = b'"layout":"sharded"', b'"layout":"'
_MOST_SAID = 8


class ShardedLayout(FolderLayout):
    """Reads such folders; see `Layout`."""

    name = NAME
    content = ""
    hint = "marlin_ckpt.load reads it"

    def members(self, store: Store, folder: str, names: Names) -> tuple[str, ...]:
        """All files in a folder whose manifest says that it is of this layout.

        Where its head is damaged, the name of the folder decides, or the files beside it.
        """
        found = super().members(store, folder, names)
        if not found:
            return ()
        head = b""
        with (
            contextlib.suppress(StorageError),  # a link, say; whoever reads on is told
            store.open(os.path.join(folder, MANIFEST)) as source,
        ):
            head = source.read(0, _HEAD_BYTES)
        if _KEY in head:
            return found if _OURS in head else ()
        has_shards = _METADATA in names.files and any(one.endswith(_SHARD) for one in names.files)
        return found if has_shards and folder.endswith(f".{SHARDS}") else ()

    def inspect(self, store: Store, entry: Entry) -> Inspection:
        """Compares the names and sizes in the folder with those in its manifest."""
        found = super().inspect(store, entry)
        if found.manifest is not None:
            sharded_of(found.manifest, entry.path)
        return found

    def verify(self, store: Store, entry: Entry, on_bytes: OnBytes) -> Verdict:
        """Reads all files that the manifest lists, compares CRC32s, and what they say of each other."""
        from marlin_ckpt.formats.layouts.dcp import ours  # noqa: PLC0415 - see above
        from marlin_ckpt.formats.layouts.dcp.saved import read_saved  # noqa: PLC0415
        from marlin_ckpt.formats.verdicts import Status, Verdict  # noqa: PLC0415

        manifest = read_manifest(store, entry, self.name)
        sharded, files = sharded_of(manifest, entry.path), files_of(manifest, entry.path)
        status, reason = compare(entry, files)
        folder = _folder(store, entry)
        if status is not None:
            lost = ours.lost(folder, files)
            reason += f", with {listed(list(lost))}" if lost else ""
            return Verdict(entry.path, status, reason, lost, entry.size_bytes)
        bad = differing(store, entry, files, on_bytes)
        is_huge = _METADATA in folder.items and _is_huge(folder)
        saved = None if is_huge or _METADATA in bad else read_saved(folder)
        found = ours.faults(folder, saved, sharded, files, bad)
        if found.wrong:
            said = "; ".join(found.wrong[:_MOST_SAID])
            return Verdict(entry.path, Status.CORRUPT, said, found.names, entry.size_bytes)
        if is_huge:  # that of a thousand ranks would take many minutes and gigabytes, if torch has pickled it
            reason = "; ".join(
                filter(None, (reason, f"{_METADATA} is too large to be compared with the shards"))
            )
        return Verdict(entry.path, Status.INTACT, reason, (), entry.size_bytes)

    def contents(self, store: Store, entry: Entry) -> Contents:
        """The states, as one tree; see `Layout.contents`."""
        from marlin_ckpt.formats.layouts.assembly import assemble, joined  # noqa: PLC0415 - see above
        from marlin_ckpt.formats.layouts.dcp.faults import faults_in  # noqa: PLC0415
        from marlin_ckpt.formats.layouts.dcp.tree import tree_of  # noqa: PLC0415
        from marlin_ckpt.formats.layouts.parts import Makeup  # noqa: PLC0415

        manifest = read_manifest(store, entry, self.name)
        files = files_of(manifest, entry.path)
        status, reason = compare(entry, files)
        folder = _folder(store, entry)
        found = assemble(folder, NAME, Makeup(missing=[reason] if status else []))
        found = found._replace(folder_manifest=manifest)
        if _METADATA not in folder.items:
            return found
        saved = read_checked(folder, manifest)
        faults = faults_in(saved, folder.items)
        root, imports = tree_of(folder, saved, without=OWN_VALUES)
        return joined(root, found, imports, [*([] if status else faults.missing), *faults.wrong])


def _is_huge(folder: Folder) -> bool:
    from marlin_ckpt.formats.layouts.dcp.metadata import is_too_large  # noqa: PLC0415 - see above

    with folder.open(_METADATA) as source:
        return is_too_large(source)


def sharded_of(manifest: Manifest, path: str) -> Sharded:
    """What a manifest says of the shards.

    Raises:
        CorruptCheckpointError: nothing; no save has written such a manifest.
    """
    if manifest.sharded is None:
        raise CorruptCheckpointError("the manifest does not hold: it says nothing of its shards", path)
    return manifest.sharded


def statistics_of(store: Store, entry: Entry) -> Columns | None:
    """Reads the statistics that were saved with a folder, and nothing else that it holds.

    Raises:
        CorruptCheckpointError, UnsafeCheckpointError, StorageError: as `statistics_in` raises them, and for
            the manifest.
    """
    from marlin_ckpt.formats import statistics  # noqa: PLC0415 - see above

    data = statistics_in(_folder(store, entry), read_manifest(store, entry, NAME))
    try:
        return statistics.from_json(data, entry.path) if data else None
    except ValueError as error:
        raise CorruptCheckpointError(str(error), entry.path) from error


def statistics_in(folder: Folder, manifest: Manifest) -> bytes:
    """The record of the statistics that were saved with a folder; empty where it has none.

    Raises:
        CorruptCheckpointError: it is damaged.
        UnsafeCheckpointError: it is larger than any that marlin-ckpt writes.
        StorageError: it cannot be read.
    """
    from marlin_ckpt.formats import statistics  # noqa: PLC0415 - see above
    from marlin_ckpt.formats.budget import ExcessError  # noqa: PLC0415

    size = {one.name: one.size for one in files_of(manifest, folder.path)}.get(statistics.NAME, 0)
    if size > statistics.MOST_BYTES:
        raise ExcessError(f"refused as too large: {statistics.NAME} has {size:,} bytes", folder.path)
    return checked_bytes(folder, manifest, statistics.NAME) if size else b""


def read_checked(folder: Folder, manifest: Manifest) -> Saved:
    """Reads `.metadata`, whose CRC32 the manifest has.

    Raises:
        CorruptCheckpointError: it is damaged, or the manifest does not list it.
        BadFileError, StorageError: as `read_saved` raises them.
    """
    from marlin_ckpt.formats.layouts.dcp.saved import read_saved  # noqa: PLC0415 - see above

    checked_bytes(folder, manifest, _METADATA)
    return read_saved(folder)


def checked_bytes(folder: Folder, manifest: Manifest, name: str) -> bytes:
    """Reads a file that the manifest lists, whole.

    Raises:
        CorruptCheckpointError: the manifest does not list it, or its length or CRC32 is another.
        CheckpointNotFoundError: it is not there.
        StorageError: it cannot be read.
    """
    from isal import isal_zlib  # noqa: PLC0415 - see above

    from marlin_ckpt.formats.zip.records import holds  # noqa: PLC0415
    from marlin_ckpt.formats.zip.structures import Record  # noqa: PLC0415

    known = {one.name: one for one in files_of(manifest, folder.path)}
    if name not in known:
        raise CorruptCheckpointError(f"the manifest does not list {name}", folder.path)
    with folder.open(name) as source:
        size = known[name].size
        data = source.read(0, size) if source.size_bytes == size else b""
        if len(data) != size or not holds(Record(*known[name], 0), isal_zlib.crc32(data)):
            raise CorruptCheckpointError(f"the CRC of {name} does not hold", folder.path)
    return data


def _folder(store: Store, entry: Entry) -> Folder:
    from marlin_ckpt.formats.layouts.members import Folder  # noqa: PLC0415 - see above

    return Folder(store, entry)
