"""Finds what is left of a damaged file, and writes it to another. Without torch."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from marlin_ckpt.directory import leftovers
from marlin_ckpt.errors import CorruptCheckpointError, NotACheckpointError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import digests, manifest, statistics
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.format import Format, detect
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle import storages
from marlin_ckpt.formats.pickle.reader import unpickling
from marlin_ckpt.formats.zip import recovery
from marlin_ckpt.formats.zip.recovery import Archive, Evidence, Found
from marlin_ckpt.formats.zip.writer import CONSTANT_RECORDS, Stream, write_state
from marlin_ckpt.storage.paths import exists, open_source, publish, remove
from marlin_ckpt.storage.source import Source
from marlin_ckpt.storage.target import Target

_PICKLE = "data.pkl"


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
        doubts: in words, what else may be missing or wrong: what nothing in the file proves.
    """

    path: str
    intact: tuple[Found, ...]
    lost: tuple[Lost, ...]
    pickle: bytes
    manifest: Manifest | None
    doubts: tuple[str, ...] = ()


def salvage(path: str, output: PathText) -> Salvage:
    """Writes what is intact of a file to a new one.

    Args:
        path: the damaged file; it is only read.
        output: the new file's name; nothing must be there.

    Returns:
        what was found, and is in the new file. Its tensors have all their elements; whether the classes that
        its pickle names can be imported is for those to see who load it.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: it cannot be read, or the new one not written.
        NotACheckpointError, CorruptCheckpointError: nothing can be salvaged; no file is written.
    """
    with open_source(path) as source:
        if exists(output):
            raise StorageError("is already there", os.fspath(output), "choose another output")
        found = examine(source)
        _write(source, found, output)
    return found


def examine(source: Source) -> Salvage:
    """Looks for every record of a file that its CRC still proves.

    A record is looked for where the zip directory says that it is; where the manifest's list puts it; and at
    each local header, with the data descriptor that fits it. CRCs prove single records. What proves that they
    were saved together is the manifest, the record that torch derives from the CRCs of all others, or the zip
    directory: the first of them that holds.

    Args:
        source: the file.

    Raises:
        NotACheckpointError: it is no zip of torch's kind.
        CorruptCheckpointError: nothing of it can be proven, or its pickle cannot be read.
        UnsafeCheckpointError: looking would take too long.
        StorageError: it cannot be read.
    """
    if detect(source) in (Format.LEGACY, Format.SAFETENSORS, Format.PICKLE):
        what = "nothing can be salvaged: files of this format have no checksums that could prove anything"
        raise NotACheckpointError(what, source.path)
    evidence = Evidence(source)
    listed = recovery.from_directory(source)
    name = next((one.archive for one in listed if one.name == _PICKLE), "")
    listed = [one for one in listed if one.archive == name]
    whole = Archive({one.name: one for one in listed if evidence.proves(one)}, [one.record for one in listed])
    is_complete = bool(listed) and len(whole.proven) == len(listed)
    archives = [whole, *([] if is_complete else recovery.archives(source, evidence))]
    candidates = [one for one in archives if _PICKLE in one.proven]
    if candidates:
        together = _tie(source, evidence, archives, candidates)
        with unpickling(source.path):
            return _assess(source, together)
    if any(one.proven for one in archives):
        what = "nothing can be salvaged: the record data.pkl, which says what the others are, is lost"
        raise CorruptCheckpointError(what, source.path)
    what = "nothing can be salvaged: no record in it has a checksum that holds"
    raise NotACheckpointError(what, source.path)


@dataclass(frozen=True, slots=True)
class _Together:
    """Records of one archive.

    Attributes:
        proven: those whose CRC holds, by their names in the archive.
        stated: the names of all that there were, as far as is known.
        is_listed: whether a manifest or a zip directory lists them.
        manifest: ours, if it is among them.
        doubts: as of `Salvage`.
    """

    proven: dict[str, Found]
    stated: set[str]
    is_listed: bool
    manifest: Manifest | None
    doubts: tuple[str, ...]


def _tie(source: Source, evidence: Evidence, archives: list[Archive], candidates: list[Archive]) -> _Together:
    """Finds the records that were saved together with the first pickle, wherever they lie.

    Args:
        source: the file.
        evidence: of it.
        archives: what the directory lists, then what was found behind the headers.
        candidates: those with a pickle.
    """
    whole, chosen = archives[0], candidates[0]
    pickle = chosen.proven[_PICKLE]
    # The same archive as the headers have it: it may hold what the directory has wrong.
    scanned = [one for one in candidates[1:] if one.proven[_PICKLE].start == pickle.start][:1]
    own_record = next(
        (one.proven[manifest.NAME] for one in [chosen, *scanned] if manifest.NAME in one.proven), None
    )
    own = recovery.read_manifest(source, own_record)
    pool = [found for one in archives for found in one.proven.values()]
    doubts = []
    by_id = [one for one in [chosen, *scanned] if recovery.has_serialization_id(source, one)]
    if own is not None and own_record is not None:
        laid_out = list(recovery.from_manifest(own, own_record.archive))
        stated = [own_record.record, *(one.record for one in laid_out)]
        known = {one.record.name for one in pool}
        pool += [one for one in laid_out if one.record.name not in known and evidence.proves(one)]
    elif by_id or chosen is whole:
        stated = [*by_id, whole][0].stated
    else:
        pool = list(chosen.proven.values())
        stated = [*chosen.stated, *(one.record for one in pool)]
        doubts.append("nothing in it proves that all its records are of one save")
    if chosen is not whole and len(candidates) > 1:
        doubts.append(f"it holds {len(candidates)} archives; this is the first, the others are left out")
    wanted = {record.name: record for record in stated}
    same = [one for one in pool if one.record.name in wanted and one.is_same(wanted[one.record.name])]
    names = {name.partition("/")[2] for name in wanted}
    is_listed = own is not None or (chosen is whole and not by_id)
    return _Together({one.name: one for one in same}, names, is_listed, own, tuple(doubts))


def _assess(source: Source, found: _Together) -> Salvage:
    if _PICKLE not in found.proven:
        what = "nothing can be salvaged: the pickle in it is not the one that the manifest lists"
        raise CorruptCheckpointError(what, source.path)
    pickle = recovery.read_found(source, found.proven[_PICKLE])
    sizes = {f"data/{key}": size for key, size in storages.record_sizes(pickle).items()}
    # Those of the new file are its own; it has no digests, since its data is stored anew.
    others = {manifest.NAME, digests.NAME, recovery.SERIALIZATION_ID, *CONSTANT_RECORDS}
    expected = {*sizes, *found.stated} - others
    lost = {name for name in expected if not _is_whole(found, name, sizes.get(name))}
    keys = [name.removeprefix("data/") for name in lost]
    rest = storages.without_records(pickle, keys) if lost else (pickle, {})
    if rest is None:
        raise CorruptCheckpointError("nothing can be salvaged: what holds the tensors is lost", source.path)
    pruned, names = rest
    losses = [
        Lost(name, tuple(names.get(name.removeprefix("data/"), ()))) for name in sorted(lost, key=_by_number)
    ]
    tensors = [tensor for one in losses for tensor in one.tensors]
    if tensors and any(f"data/{key}" in lost for key in storages.record_sizes(pruned)):
        raise CorruptCheckpointError("nothing can be salvaged: what is left would not load", source.path)
    kept = sorted((one for name, one in found.proven.items() if name not in lost), key=lambda one: one.start)
    if tensors:
        pickle = pruned
    about = None if found.manifest is None else replace(found.manifest, lost=tensors)
    return Salvage(source.path, tuple(kept), tuple(losses), pickle, about, found.doubts)


def _is_whole(found: _Together, name: str, size: int | None) -> bool:
    """Whether a record is there, with the size that the pickle asks for, if it does; else it is another's."""
    if name not in found.proven or size not in (None, found.proven[name].size):
        return False
    # The CRC of nothing proves nothing.
    return found.proven[name].size > 0 or size == 0 or found.is_listed


def _by_number(name: str) -> tuple[str, int]:
    stem, _, last = name.rpartition("/")
    return stem, int(last) if last.isdecimal() else -1


def _write(source: Source, salvage: Salvage, output: PathText) -> None:
    """Writes what is left, piece by piece, comparing every CRC once more on the way."""

    def data() -> Iterator[tuple[str, Stream]]:
        for one in salvage.intact:
            if one.name.startswith("data/"):
                yield one.name, Stream(one.size, recovery.pieces(source, one))

    def fill(target: Target) -> None:
        orders = [recovery.read_found(source, one) for one in salvage.intact if one.name == "byteorder"]
        order = orders[0] if orders else None
        write_state(target, salvage.pickle, order, data(), salvage.manifest, (_kept(source, salvage),))

    leftovers.sweep_beside(output)
    publish(output, fill, sum(one.size for one in salvage.intact))
    try:
        _check(output)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(output)
        raise


def _kept(source: Source, salvage: Salvage) -> statistics.Kept:
    """The statistics of the damaged file, for the new one; those of what is lost stay in them."""
    for one in salvage.intact:
        if one.name == statistics.NAME and one.size <= statistics.MOST_BYTES:
            return statistics.Kept(recovery.read_found(source, one))
    return statistics.Kept(b"")


def _check(output: PathText) -> None:
    """Reads the structure and the pickle of what was written, and looks for the elements of each tensor.

    The data of the tensors was compared with its checksums on the way, and is not read again.

    Raises:
        CorruptCheckpointError: it would not load: a tensor lacks elements, or there is none of its records.
    """
    with open_source(os.fspath(output)) as written:
        outside = [one.name for one in read_contents(written).tensors if not one.is_inside]
    if outside:
        what = f"nothing can be salvaged: what is left would not load, since {outside[0]} lacks elements"
        raise CorruptCheckpointError(what, os.fspath(output), tensors=tuple(outside))
