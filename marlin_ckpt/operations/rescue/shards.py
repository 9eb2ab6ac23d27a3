"""Rescues what is intact in a damaged or incomplete sharded checkpoint: one file of it."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import BadFileError, CheckpointNotFoundError, CorruptCheckpointError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.layouts.dcp.checking import check
from marlin_ckpt.formats.layouts.dcp.faults import faults_in, short_names
from marlin_ckpt.formats.layouts.dcp.pieces import Path
from marlin_ckpt.formats.layouts.dcp.saved import METADATA, SHARD, Saved, metadata_files, read_saved
from marlin_ckpt.formats.layouts.folder import read_manifest
from marlin_ckpt.formats.layouts.members import Folder
from marlin_ckpt.formats.layouts.sharded import NAME, read_checked, sharded_of, statistics_in
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.shards.nesting import KINDS, OWN
from marlin_ckpt.formats.shards.reader import read_shard
from marlin_ckpt.formats.statistics import NAME as STATISTICS
from marlin_ckpt.formats.values.sharded import CheckedFolder
from marlin_ckpt.operations.rescue.salvage import Lost
from marlin_ckpt.operations.whole.to_file import whole_of, write_file
from marlin_ckpt.storage.paths import exists, open_store
from marlin_ckpt.storage.store import Store

_OF_TORCH = "dcp"
LAYOUTS = (NAME, _OF_TORCH)
_LARGE = 16 << 20  # bytes of metadata, which take a second to read
_SHORT = 100  # characters of a name, by which the checks name what is damaged
_WITHOUT_KINDS = "what containers there were is lost: keys that were no texts are texts, tuples are lists"
_WITHOUT_MANIFEST = (
    f"the manifest is damaged: what run this is of is lost, and nothing proves what {METADATA} says"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor or a value that is intact.

    Attributes:
        name: its flat name.
        size: the length of its file in the shard, in bytes.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class SalvagedFolder:
    """What a sharded checkpoint still holds; as `salvage.Salvage` of a file.

    Attributes:
        path: the folder.
        intact: what is in the new file.
        lost: by the shards that it was in, what is not.
        doubts: in words, what else may be wrong.
    """

    path: str
    intact: tuple[Kept, ...]
    lost: tuple[Lost, ...]
    doubts: tuple[str, ...] = ()


def salvage_folder(entry: Entry, output: PathText) -> SalvagedFolder:
    """Writes what is intact of a sharded checkpoint to one new file.

    A tensor of which any shard has lost a part is lost, and with a part of a list all of the list.

    Args:
        entry: the folder, of a layout of `LAYOUTS`; it is only read.
        output: the new file's name; nothing must be there.

    Returns:
        what was found, and is in the new file.

    Raises:
        StorageError: it cannot be read, or the new file not written.
        CorruptCheckpointError: its metadata is damaged or missing: nothing says what is in it.
    """
    if exists(output):
        raise StorageError("is already there", os.fspath(output), "choose another output")
    doubts: list[str] = []
    with open_store(entry.place or os.curdir) as store, contextlib.ExitStack() as stack:
        folder = Folder(store, entry)
        manifest = _manifest(store, entry, doubts)
        saved = _saved(folder, manifest)
        lost = dict(_lost(folder, saved, _save_id(folder, saved, manifest)))
        contents = layouts.named(_OF_TORCH if manifest is None else NAME).contents(store, entry)
        doubts += [f"{name}, which is beside the shards, is not in it" for name, _ in contents.parts]
        checked = CheckedFolder(contents, folder.open, stack, tuple(folder.items))
        gone = _with_their_lists(saved, {name for names in lost.values() for name in names})
        left = _without(saved, gone)
        if not any(not name.startswith(OWN) for name in (*left.tensors, *left.values)):
            raise CorruptCheckpointError("nothing can be salvaged: all of its shards are lost", entry.path)
        losses = [Lost(file, tuple(names)) for file, names in lost.items() if names]
        own, kept = None, b""
        if manifest is not None:
            own = replace(manifest, layout="", sharded=None, records=[], lost=sorted(gone))
            try:
                kept = statistics_in(folder, manifest)
            except (CorruptCheckpointError, CheckpointNotFoundError):
                losses.append(Lost(STATISTICS, ()))
        whole = whole_of(checked, left)
        write_file(checked, whole, own, os.fspath(output), overwrite=False, statistics=kept)
    intact = (Kept(one.name, one.place.size_bytes) for one in saved.items if one.name not in gone)
    doubts += [_WITHOUT_KINDS] if any(name.startswith(KINDS) for name in gone) else []
    return SalvagedFolder(entry.path, tuple(intact), tuple(losses), tuple(doubts))


def can_be_salvaged(entry: Entry) -> bool:
    """Whether it is known what the shards of a folder hold."""
    if entry.layout not in LAYOUTS:
        return False
    with contextlib.suppress(BadFileError, CheckpointNotFoundError):
        with open_store(entry.place or os.curdir) as store:
            folder = Folder(store, entry)
            if not any(name.endswith(SHARD) for name in folder.items):
                return False
            large = (
                sum(one.size_bytes for name, one in folder.items.items() if name.endswith(METADATA)) > _LARGE
            )
            if not large:
                _saved(folder, _manifest(store, entry, []))
        return True
    return False


def _manifest(store: Store, entry: Entry, doubts: list[str]) -> Manifest | None:
    """The manifest; None of a folder of torch's, and where it is damaged, which is added to the doubts."""
    if entry.layout == NAME:
        try:
            return read_manifest(store, entry, NAME)
        except CorruptCheckpointError:
            doubts.append(_WITHOUT_MANIFEST)
    return None


def _saved(folder: Folder, manifest: Manifest | None) -> Saved:
    """What the metadata says that the shards hold."""
    if not metadata_files(folder):
        what = f"nothing can be salvaged: {METADATA} is missing, which says what the shards hold"
        raise CorruptCheckpointError(what, folder.path)
    try:
        return read_saved(folder) if manifest is None else read_checked(folder, manifest)
    except CorruptCheckpointError as error:
        what = f"nothing can be salvaged: {error.what}, and nothing else says what the shards hold"
        raise CorruptCheckpointError(what, folder.path) from error


def _save_id(folder: Folder, saved: Saved, manifest: Manifest | None) -> str:
    """The id of the save; without a manifest the one that most shards have, "" of those of torch's own."""
    if manifest is not None:
        return sharded_of(manifest, folder.path).save_id
    found = Counter(filter(None, (_save_id_of(folder, file) for file in saved.files())))
    return max(found, key=found.__getitem__, default="")


def _save_id_of(folder: Folder, file: str) -> str:
    with contextlib.suppress(BadFileError, CheckpointNotFoundError), folder.open(file) as source:
        shard = read_shard(source)
        return shard.about.save_id if shard is not None else ""
    return ""


def _lost(folder: Folder, saved: Saved, save_id: str) -> Iterator[tuple[str, list[str]]]:
    """By the shards, the names of what is not whole in them."""
    broken = faults_in(saved, folder.items).unreadable
    for file, items in saved.files().items():
        if file not in folder.items or _save_id_of(folder, file) not in ("", save_id):
            yield file, short_names(items)
            continue
        found = check(folder, saved._replace(items=items), broken, lambda _: None)
        yield file, [*short_names([one for one in items if one in broken]), *found.names]


def _with_their_lists(saved: Saved, lost: set[str]) -> set[str]:
    """The names of what is lost, and of all else in the lists that it was in, where places would shift."""
    starts = set()
    for name in (*saved.tensors, *saved.values):
        if name[:_SHORT] in lost:
            path = saved.paths.get(name, (name,))
            while type(path[-1]) is int:
                path = path[:-1]
            starts.add(path)
    return {name for name in (*saved.tensors, *saved.values) if starts & {*_starts(saved.paths, name)}}


def _starts(paths: Mapping[str, Path], name: str) -> Iterator[Path]:
    path = paths.get(name, (name,))
    return (path[: end + 1] for end in range(len(path)))


def _without(saved: Saved, names: set[str]) -> Saved:
    return saved._replace(
        tensors={name: one for name, one in saved.tensors.items() if name not in names},
        values={name: one for name, one in saved.values.items() if name not in names},
    )
