"""Finds the records of a damaged file, and which of them their CRC proves."""

import itertools
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from isal import isal_zlib

from marlin_ckpt.errors import CorruptCheckpointError, UnknownFormatError, UnsafeCheckpointError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.directory import StructureError, read_directory, read_exactly, read_header
from marlin_ckpt.formats.zip.inflation import InflationError, inflated
from marlin_ckpt.formats.zip.records import holds, read_at
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

SERIALIZATION_ID = ".data/serialization_id"
_ID_DIGITS = 40  # twenty for the names of the records, twenty for their CRCs
_PIECE_BYTES = 1 << 20
_FREE_BYTES = 64 << 20
_LONGEST_NAME = 1024
_MOST_SIGNATURES = 4_000_000  # two for each record
_DESCRIPTORS = (struct.Struct("<4sLLL"), struct.Struct("<4sLQQ"))
_SIGNATURES = (structures.LOCAL_SIGNATURE, structures.DESCRIPTOR_SIGNATURE, structures.END_SIGNATURE)
_SIGNATURE = re.compile(b"|".join(map(re.escape, _SIGNATURES)))


class Found(NamedTuple):
    """Where the data of a record may start, and the size and CRC32 that would prove it."""

    record: Record
    start: int

    @property
    def name(self) -> str:
        """Its name inside the archive, `data/0`."""
        return self.record.label

    @property
    def archive(self) -> str:
        """The archive's name, which torch makes from the file's."""
        return self.record.name.partition("/")[0]

    @property
    def size(self) -> int:
        """The length of its data in bytes."""
        return self.record.size

    def is_same(self, other: Record) -> bool:
        """Whether size and CRC32 are those of another."""
        return (self.size, self.record.crc32) == (other.size, other.crc32)


@dataclass(slots=True)
class Archive:
    """Records that lie behind one another as those of one archive do.

    Attributes:
        proven: those whose CRC holds, by their names in the archive.
        stated: all whose size and CRC32 are told, in the order of their place.
    """

    proven: dict[str, Found] = field(default_factory=dict)
    stated: list[Record] = field(default_factory=list)


class Evidence:
    """Compares data with CRCs, of no more bytes in all than a few times the file's."""

    def __init__(self, source: Source) -> None:
        self._source = source
        # Lying records that overlap would else keep us reading the same bytes over and over.
        self._left_bytes = _FREE_BYTES + 4 * source.size_bytes

    def proves(self, found: Found) -> bool:
        """Whether a record's data is where it may be."""
        read_bytes = max(found.record.stored_bytes, found.size)
        is_inside = found.start + found.record.stored_bytes <= self._source.size_bytes
        if not is_inside or read_bytes > self._left_bytes:
            return False
        self._left_bytes -= read_bytes
        return holds(found.record, read_at(self._source, found.record, found.start))


def pieces(source: Source, found: Found) -> Iterator[bytes]:
    """Reads a proven record's data in pieces of at most 1 MiB, and compares its CRC32 once more.

    Raises:
        CorruptCheckpointError: the file has changed since.
    """
    record, crc32 = found.record, 0
    data: Iterable[bytes]
    if record.deflated_bytes is not None:
        data = inflated(source, found.start, record)
    else:
        places = range(0, record.size, _PIECE_BYTES)
        data = (read_exactly(source, found.start + at, min(_PIECE_BYTES, record.size - at)) for at in places)
    try:
        for piece in data:
            crc32 = isal_zlib.crc32(piece, crc32)
            yield piece
        is_proven = holds(record, crc32)
    except InflationError:
        is_proven = False
    if not is_proven:
        raise CorruptCheckpointError("changed while it was read", source.path)


def from_directory(source: Source) -> list[Found]:
    """The records that the zip directory lists; none where it is damaged."""
    try:
        records = read_directory(source).records
    except StructureError:
        return []
    alignment = structures.alignment_of(records)
    return [Found(record, _start(source, record, alignment)) for record in records]


def _start(source: Source, record: Record, alignment: int) -> int:
    """Where a record's data starts, by its header or, where that is damaged, by our own layout."""
    header = read_header(source, record.header_offset)
    named = len(record.name.encode())
    if header is not None and len(header.name) == named:
        return header.data_offset
    offset = record.header_offset
    return offset + structures.local_header_bytes(named, record.size, offset, alignment)


def from_manifest(own: Manifest, archive: str) -> Iterator[Found]:
    """Where the layout puts the records of an archive that a manifest lists."""
    rows = ((str(row["name"]), int(row["size"]), int(row["crc32"])) for row in own.records)
    found = (Found(record, start) for record, start in structures.lay_out(rows))
    return (one for one in found if one.archive == archive)


def archives(source: Source, evidence: Evidence) -> list[Archive]:
    """Walks the local headers; a record's size and CRC follow its data, in the descriptor that fits it.

    An archive ends where an end record does, and where a record of a name begins that it has with other data.
    What lies in the data of a record is not looked at: a tensor may hold a zip.

    Raises:
        UnsafeCheckpointError: there are more signatures than any checkpoint has.
    """
    places, ends = _signatures(source)
    found: list[Archive] = []
    current: dict[str, Archive] = {}
    inside_until = 0
    for at, is_header in places:
        if at < inside_until:
            continue
        if not is_header:
            current.clear()
            continue
        one, is_proven = _behind(source, at, ends, evidence)
        if one is None or one.start < inside_until:
            continue
        archive = current.get(one.archive)
        known = archive.proven.get(one.name) if archive is not None else None
        if archive is None or (is_proven and known is not None and not one.is_same(known.record)):
            archive = current[one.archive] = Archive()
            found.append(archive)
        archive.stated.append(one.record)
        if is_proven:
            archive.proven.setdefault(one.name, one)
        inside_until = one.start + one.record.stored_bytes
    return found


def _behind(
    source: Source, at: int, ends: dict[int, list[tuple[int, int]]], evidence: Evidence
) -> tuple[Found | None, bool]:
    """The record behind a local header, and whether its CRC holds."""
    header = read_header(source, at)
    if header is None or len(header.name) > _LONGEST_NAME:
        return None, False
    name, start = header.name.decode(errors="replace"), header.data_offset
    if not name.isprintable() or "/" not in name:
        return None, False
    has_descriptor = bool(header.flags & structures.HAS_DESCRIPTOR)
    if has_descriptor:
        # Taken out, since of many headers in front of one place no more than one can be right.
        told = [Record(name, size, crc32, at) for size, crc32 in sorted(ends.pop(start, ()))]
    else:
        deflated = None if header.method == structures.STORED else header.stored_bytes
        told = [Record(name, header.size, header.crc32, at, deflated)]
    candidates = [Found(record, start) for record in told]
    proven = next(filter(evidence.proves, candidates), None)
    if proven is not None or not has_descriptor or len(candidates) != 1:
        return proven, proven is not None
    return candidates[0], False


def _signatures(source: Source) -> tuple[list[tuple[int, bool]], dict[int, list[tuple[int, int]]]]:
    """Where local headers and end records may be, and what descriptors say of data by the place of its start.

    Returns:
        places with whether a header is there, and sizes with CRC32s.
    """
    places: list[tuple[int, bool]] = []
    ends: dict[int, list[tuple[int, int]]] = {}
    at = count = 0
    tail = b""
    while data := source.read(at, _PIECE_BYTES):
        block = tail + data
        for match in _SIGNATURE.finditer(block):
            count += 1
            if count > _MOST_SIGNATURES:
                what = f"refused: more than {_MOST_SIGNATURES:,} places in it look like parts of a zip"
                raise UnsafeCheckpointError(what, source.path)
            place = at - len(tail) + match.start()
            if match.group() == structures.DESCRIPTOR_SIGNATURE:
                for size, crc32 in _described(source.read(place, _DESCRIPTORS[1].size)):
                    ends.setdefault(place - size, []).append((size, crc32))
            else:
                places.append((place, match.group() == structures.LOCAL_SIGNATURE))
        at += len(data)
        tail = block[-3:]
    return places, ends


def _described(descriptor: bytes) -> Iterator[tuple[int, int]]:
    """Size and CRC32 by the descriptor of stored data, read as one of 32 and as one of 64 bits."""
    for form in _DESCRIPTORS:
        if len(descriptor) >= form.size:
            _, crc32, stored, size = form.unpack_from(descriptor)
            if stored == size:
                yield size, crc32


def has_serialization_id(source: Source, archive: Archive) -> bool:
    """Whether the record that torch derives from the CRCs of all records before it is the right one.

    Its second half are the CRCs in the data descriptors, put together by c10::hash_combine:
    `writeSerializationId` and `ostream_write_func` in caffe2/serialize/inline_container.cc.
    """
    own = archive.proven.get(SERIALIZATION_ID)
    if own is None or own.size != _ID_DIGITS:
        return False
    combined = 0
    for record in itertools.takewhile(lambda record: record != own.record, archive.stated):
        if record.size:
            step = record.crc32 + 0x9E3779B9 + (combined << 6) + (combined >> 2)
            combined = (combined ^ step) & 0xFFFFFFFFFFFFFFFF
    return read_found(source, own)[_ID_DIGITS // 2 :] == b"%020d" % combined


def read_manifest(source: Source, found: Found | None) -> Manifest | None:
    """The manifest, if its record is proven and of a format that is known here."""
    if found is None:
        return None
    try:
        own = Manifest.from_json(read_found(source, found))
        list(from_manifest(own, found.archive))
    except (UnknownFormatError, ValueError, KeyError, TypeError, OverflowError, struct.error):
        return None
    return own


def read_found(source: Source, found: Found) -> bytes:
    """A proven record's data; raises as `pieces`."""
    return b"".join(pieces(source, found))
