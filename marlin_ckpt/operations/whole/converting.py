"""Converts a whole checkpoint: a file to a sharded one, a sharded one to a file."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import replace
from datetime import UTC, datetime

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import ArgumentsError, Fault, NotACheckpointError, StorageError
from marlin_ckpt.formats import statistics
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.format import refuse_shard
from marlin_ckpt.formats.layouts.dcp.saved import Saved, read_saved
from marlin_ckpt.formats.layouts.members import Folder
from marlin_ckpt.formats.layouts.sharded import read_checked, statistics_in
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.values.checked import CheckedFile
from marlin_ckpt.formats.zip.reader import read_alone
from marlin_ckpt.operations.export import Exported
from marlin_ckpt.operations.one import opened
from marlin_ckpt.operations.whole import to_file, to_folder
from marlin_ckpt.storage.paths import exists, is_folder, look, open_source, open_store, real
from marlin_ckpt.urls import is_url
from marlin_ckpt.version import __version__

ALL = "all"  # in place of the name of a state
_FILES = ("pt", "pth", "ckpt", "bin")
_SHARDED = ("sharded", "dcp")  # the layouts that are read


def convert(path: str, output: str, *, force: bool = False) -> Exported:
    """Writes all that a checkpoint holds to a file, or to a folder of shards.

    Args:
        path: the checkpoint: a file of `torch.save` or of ours, or a sharded one, of ours or of torch's.
        output: the new one: the extension says what it is.
        force: whether what has that name is replaced.

    Returns:
        the report.

    Raises:
        ArgumentsError: no known kind of checkpoint has the extension.
        NotACheckpointError: it is of a kind that is not converted whole.
        UnsavableStateError: its state cannot be written so.
        CheckpointNotFoundError, BadFileError, StorageError: it cannot be read, or the new one not be written.
    """
    place = output.rstrip("/")
    extension = naming.split_extension(place)[1]
    if extension not in (*_FILES, naming.SHARDS) or (extension in _FILES and place != output):
        known = ", ".join(f".{one}" for one in (*_FILES, naming.SHARDS))
        what = f"expected a name that ends in {known} for all of a checkpoint, not {output}"
        raise ArgumentsError([Fault("output", what)])
    if is_url(place) and extension == naming.SHARDS:
        what = "a sharded checkpoint is not written to an object store in this version: name a file or a disk"
        raise ArgumentsError([Fault("output", what)])
    if not force and exists(place):
        raise StorageError("is already there", place, "choose another output, or replace it with --force")
    entry = catalog.entry(path) if is_folder(path) else None
    if entry is not None and extension != naming.SHARDS:
        return _to_file(path, entry, place, force=force)
    if entry is None and extension == naming.SHARDS:
        return _to_folder(path, place, force=force)
    if entry is None:
        with open_source(path):  # of what is not there, or a directory of something else, it says so
            pass
    kind = "sharded" if entry is not None else "a file"
    hint = "copy it" if entry is not None else f"write a .{naming.SHARDS}, or export without --state"
    raise NotACheckpointError(f"it is {kind} already", path, hint)


def _to_file(path: str, entry: Entry, output: str, *, force: bool) -> Exported:
    if entry.layout not in _SHARDED:
        what = f"a folder of the layout {entry.layout} is not converted whole"
        raise NotACheckpointError(what, path, "export without --state writes its weights")
    with opened(path) as checked:
        manifest = checked.contents.manifest
        whole = to_file.whole_of(checked, _saved(entry, manifest))
        checked.expect(whole.tensors.values())
        own = None if manifest is None else replace(manifest, layout="", sharded=None, records=[])
        kept = b"" if manifest is None else _statistics(entry, manifest)
        size_bytes = to_file.write_file(checked, whole, own, output, overwrite=force, statistics=kept)
    return Exported(output, ALL, whole.names, size_bytes, whole.ties, (), 0)


def _saved(entry: Entry, manifest: Manifest | None) -> Saved:
    with open_store(entry.place or os.curdir) as store:
        folder = Folder(store, entry)
        return read_saved(folder) if manifest is None else read_checked(folder, manifest)


def _statistics(entry: Entry, manifest: Manifest) -> bytes:
    with open_store(entry.place or os.curdir) as store:
        return statistics_in(Folder(store, entry), manifest)


def _to_folder(path: str, output: str, *, force: bool) -> Exported:
    with open_source(path) as source:
        refuse_shard(source)
        contents = read_contents(source)
        flat = to_folder.flat_of(source, contents)
        file = CheckedFile(source, contents)
        file.expect(flat.tensors.values())
        manifest = contents.manifest or _manifest(path)
        kept = read_alone(source, statistics.NAME, statistics.MOST_BYTES) or b""
        size_bytes = to_folder.write_folder(file, flat, manifest, output, overwrite=force, statistics=kept)
    return Exported(output, ALL, len(flat.tensors), size_bytes, flat.ties, (), 0)


def _manifest(path: str) -> Manifest:
    """Of a checkpoint that another tool wrote."""
    name = os.path.basename(path)
    found = naming.parse_any(name, naming.split_extension(name)[1])
    modified = 0.0
    with contextlib.suppress(OSError):
        item = look(real(path))
        modified = item.modified_ns / 1e9 if item else 0.0
    created = datetime.fromtimestamp(modified, UTC).isoformat(timespec="milliseconds")
    return Manifest(
        kind=naming.Kind.CHECKPOINT,
        index=found.index if found else 0,
        created=created.replace("+00:00", "Z"),
        run_id=secrets.token_hex(6),
        save_number=1,
        versions={"marlin_ckpt": __version__},
    )
