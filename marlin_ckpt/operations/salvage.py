"""Finds what is left of a damaged file, and writes it to another. Without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from isal import isal_zlib

from marlin_ckpt.errors import (
    CorruptCheckpointError,
    NotACheckpointError,
    StorageError,
)
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import manifest
from marlin_ckpt.formats.format import Format, detect
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle import storages
from marlin_ckpt.formats.zip import recovery
from marlin_ckpt.formats.zip.recovery import Found
from marlin_ckpt.formats.zip.writer import CONSTANT_RECORDS, write_state
from marlin_ckpt.storage.local.files import open_source
from marlin_ckpt.storage.local.publishing import publish
from marlin_ckpt.storage.source import Source
from marlin_ckpt.storage.target import Target


@dataclass(frozen=True, slots=True)
class Lost:
    """A record that is not proven, and what it held.

    Attributes:
        record: its name inside the archive, `data/0`.
        tensors: the names of the tensors that were taken out for it.
    """

    record: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Salvage:
    """What a file still holds.

    Attributes:
        path: the file.
        intact: the records whose CRC holds, in the order of their place, with their names in the archive.
        lost: what does not.
        pickle: the record `data.pkl` as it will be written, without what is lost.
        manifest: the file's own, as far as it holds, with the names of the lost tensors.
    """

    path: str
    intact: tuple[Found, ...]
    lost: tuple[Lost, ...]
    pickle: bytes
    manifest: Manifest | None


def salvage(path: str, output: PathText) -> Salvage:
    """Writes what is intact of a file to a new one.

    Args:
        path: the damaged file; it is only read.
        output: the new file's name; nothing must be there.

    Returns:
        what was found, and is in the new file.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: it cannot be read, or the new one not written.
        NotACheckpointError, CorruptCheckpointError: nothing can be salvaged; no file is written.
    """
    with open_source(path) as source:
        if os.path.lexists(output):
            raise StorageError("is already there", os.fspath(output), "choose another output")
        found = examine(source)
        _write(source, found, output)
    return found


def examine(source: Source) -> Salvage:
    """Looks for every record of a file that its CRC still proves.

    A record is looked for where the zip directory says that it is; where the manifest's list puts it; and at
    each local header, with the data descriptor that fits it.

    Args:
        source: the file.

    Raises:
        NotACheckpointError: it is no zip of torch's kind.
        CorruptCheckpointError: nothing of it can be proven or told apart.
        OSError: it cannot be read.
    """
    if detect(source) in (Format.LEGACY, Format.SAFETENSORS):
        what = "nothing can be salvaged: files of this format have no checksums that could prove anything"
        raise NotACheckpointError(what, source.path)
    seen = recovery.Evidence(source)
    listed = {found.name: found for found in recovery.from_directory(source)}
    for found in listed.values():
        seen.consider(found)
    if not listed or len(seen.proven) < len(listed):
        for found in recovery.from_headers(source):
            known = listed.get(found.name, found)
            if (known.size, known.crc32) == (found.size, found.crc32):
                seen.consider(found)
    own = recovery.read_manifest(source, seen.proven)
    for found in recovery.from_manifest(own):
        held = seen.proven.get(found.name, found)
        if (held.size, held.crc32) != (found.size, found.crc32):
            del seen.proven[found.name]
        seen.consider(found)
    if not seen.proven:
        raise NotACheckpointError(
            "nothing can be salvaged: no record in it has a checksum that holds", source.path
        )
    if "data.pkl" not in seen.proven:
        what = "nothing can be salvaged: the record data.pkl, which says what the others are, is lost"
        raise CorruptCheckpointError(what, source.path)
    return _assess(source, seen.proven, set(listed), own)


def _assess(source: Source, proven: dict[str, Found], listed: set[str], own: Manifest | None) -> Salvage:
    pickle = recovery.read_found(source, proven["data.pkl"])
    sizes = {f"data/{key}": size for key, size in storages.record_sizes(pickle).items()}
    expected = {*sizes, *listed, *(found.name for found in recovery.from_manifest(own))} - {manifest.NAME}
    expected -= CONSTANT_RECORDS  # those of the new file are its own
    # A size other than the pickle asks for: a record of some other file that lay in this one.
    lost = {
        name for name in expected
        if name not in proven or sizes.get(name) not in (None, proven[name].size)
    }  # fmt: skip
    keys = [name.removeprefix("data/") for name in lost]
    rest = storages.without_records(pickle, keys) if lost else (pickle, {})
    if rest is None:
        raise CorruptCheckpointError("nothing can be salvaged: what holds the tensors is lost", source.path)
    pruned, names = rest
    losses = [
        Lost(name, tuple(names.get(name.removeprefix("data/"), ()))) for name in sorted(lost, key=_by_number)
    ]
    tensors = [tensor for one in losses for tensor in one.tensors]
    kept = sorted((one for name, one in proven.items() if name not in lost), key=lambda one: one.start)
    return Salvage(
        source.path,
        tuple(kept),
        tuple(losses),
        pruned if tensors else pickle,
        None if own is None else replace(own, lost=tensors),
    )


def _by_number(name: str) -> tuple[str, int]:
    stem, _, last = name.rpartition("/")
    return stem, int(last) if last.isdecimal() else -1


def _write(source: Source, salvage: Salvage, output: PathText) -> None:
    """Writes what is left, checking every CRC once more on the way."""

    def buffers() -> Iterator[tuple[str, bytes]]:
        for one in salvage.intact:
            if one.name.startswith("data/"):
                data = recovery.read_found(source, one)
                if isal_zlib.crc32(data) != one.crc32:
                    raise CorruptCheckpointError("changed while it was read", salvage.path)
                yield one.name, data

    def fill(target: Target) -> None:
        orders = [recovery.read_found(source, one) for one in salvage.intact if one.name == "byteorder"]
        write_state(target, salvage.pickle, orders[0] if orders else None, buffers(), salvage.manifest)

    publish(output, fill, sum(one.size for one in salvage.intact))
