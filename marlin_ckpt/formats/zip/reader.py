"""Reads a container without torch and without unpickling anything."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from isal import isal_zlib

from marlin_ckpt.errors import CorruptCheckpointError, NotACheckpointError, UnknownFormatError
from marlin_ckpt.formats import manifest
from marlin_ckpt.formats.manifest import Manifest, NewerFormat
from marlin_ckpt.formats.zip import canonical, structures
from marlin_ckpt.formats.zip.canonical import TAIL, StructureError
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

_IS_DIRECTORY = 0x10  # the attribute of MS-DOS, in the external attributes of a zip entry


@dataclass(frozen=True, slots=True)
class Container:
    """The structure of one file.

    Attributes:
        path: where it is, for messages.
        records: in the order of their place in the file.
        data_offsets: where each record's data starts, by record name.
        manifest: ours, or None in a file by another tool.
    """

    path: str
    records: tuple[Record, ...]
    data_offsets: dict[str, int]
    manifest: Manifest | None


def read_listing(source: Source) -> Container:
    """Reads what a container's directory tells, and the manifest if there is one; no other record's header.

    A list of thousands of files asks for no more: reading every header would take a call for each record.

    Args:
        source: the file.

    Raises:
        As `read_container` does, for what the directory shows.
    """
    return _read(source, every_header=False)


def read_container(source: Source) -> Container:
    """Reads and checks the structure of a zip: the directory, the headers, the places of all records.

    Args:
        source: the file.

    Raises:
        CorruptCheckpointError: the structure does not hold; the file is truncated or damaged.
        NotACheckpointError: it is no zip of a kind that torch writes.
        UnknownFormatError: a newer marlin-ckpt wrote it.
    """
    return _read(source, every_header=True)


def _read(source: Source, *, every_header: bool) -> Container:
    try:
        records, entries, directory_offset = read_directory(source)
        _check_order(records, directory_offset)
        own = [record for record in records if record.name.partition("/")[2] == manifest.NAME]
        is_checkpoint = _has_pickle(records)
        # A damaged name must not make a checkpoint something else.
        wanted = records if every_header or not is_checkpoint else own
        data_offsets = _check_headers(source, wanted, entries, directory_offset)
        if not is_checkpoint:
            raise NotACheckpointError("not a checkpoint but a zip of something else", source.path)
        found = _read_manifest(source, own[0], records, data_offsets) if own else None
        if found is not None and every_header:
            canonical.check_as_ours(source, records, directory_offset)
        elif every_header:
            canonical.check_as_torchs(source, records, entries, directory_offset)
        return Container(source.path, tuple(records), data_offsets, found)
    except NewerFormat as error:
        raise UnknownFormatError(str(error), source.path, "a newer marlin-ckpt wrote it: upgrade") from error
    except StructureError as error:
        raise CorruptCheckpointError(str(error), source.path) from error
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise CorruptCheckpointError("the zip directory is damaged", source.path) from error


# What reading a damaged directory raises.
DAMAGE = (StructureError, struct.error, UnicodeDecodeError, OverflowError)


def _has_pickle(records: list[Record]) -> bool:
    return any(record.name.partition("/")[2] == "data.pkl" for record in records)


def ends_as_a_checkpoint(source: Source) -> bool:
    """Whether a file that does not start as a zip ends as one that holds a checkpoint."""
    try:
        return _has_pickle(read_directory(source)[0])
    except DAMAGE:
        return False


def read_directory(source: Source) -> tuple[list[Record], dict[str, bytes], int]:
    """Reads the directory at a container's end.

    Returns:
        the records in the order of their place, the bytes of each one's entry by its name, and the
        directory's own place.

    Raises:
        StructureError, struct.error, UnicodeDecodeError, OverflowError: it is damaged; see `DAMAGE`.
    """
    size = source.size_bytes
    tail_offset = max(0, size - TAIL)
    tail = source.read(tail_offset, size - tail_offset)
    at = tail.rfind(structures.END_SIGNATURE)
    if at < 0 or len(tail) - at < structures.END.size:
        raise StructureError("truncated: the zip directory at its end is missing")
    *_, count, directory_size, offset, comment = structures.END.unpack_from(tail, at)
    if at + structures.END.size + comment != len(tail):
        raise StructureError("bytes follow the end of the zip")
    end = tail_offset + at
    locator = at - structures.END64_LOCATOR.size
    if locator >= 0 and tail.startswith(structures.END64_LOCATOR_SIGNATURE, locator):
        _, _, end, _ = structures.END64_LOCATOR.unpack_from(tail, locator)
        *_, count, directory_size, offset = _end64(source, end, size)
    if offset + directory_size != end:
        raise StructureError("the zip directory is not where the file's end says")
    return *_parse_entries(source.read(offset, directory_size), count), offset


def _end64(source: Source, end: int, size: int) -> tuple[int, ...]:
    data = source.read(end, structures.END64.size) if end < size else b""
    if not data.startswith(structures.END64_SIGNATURE):
        raise StructureError("the zip64 end record is missing")
    return structures.END64.unpack(data)[1:]  # all but the signature


def _parse_entries(data: bytes, count: int) -> tuple[list[Record], dict[str, bytes]]:
    """The records in the order of their place, and the bytes of each one's entry."""
    records = []
    entries: dict[str, bytes] = {}
    at = 0
    for _ in range(count):
        fields = structures.CENTRAL_ENTRY.unpack_from(data, at)
        signature, method, crc32, attributes = fields[0], fields[4], fields[7], fields[15]
        packed, size, name_size, extra_size, comment_size = fields[8:13]
        offset = fields[16]
        if signature != structures.CENTRAL_SIGNATURE:
            raise StructureError("the zip directory is damaged")
        start = at
        at += structures.CENTRAL_ENTRY.size
        name = data[at : at + name_size].decode()
        extra = data[at + name_size : at + name_size + extra_size]
        at += name_size + extra_size + comment_size
        packed, size, offset = _zip64_values(extra, [size, packed, offset])
        if method or packed != size:
            raise StructureError(f"record {name} is compressed; torch stores records as they are")
        if attributes & _IS_DIRECTORY:
            # torch's reader would skip the data and hand out memory that nothing was read into.
            raise StructureError(f"record {name} says that it is a directory")
        records.append(Record(name, size, crc32, offset))
        entries[name] = data[start:at]
    if at != len(data):
        raise StructureError("the zip directory has another length than it says")
    return sorted(records, key=lambda record: record.header_offset), entries


def _zip64_values(extra: bytes, values: list[int]) -> tuple[int, int, int]:
    """Replaces the values that are at their 32-bit limit by those of the zip64 extra field, in its order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            where = at + 4
            for place, value in enumerate(values):
                if value == structures.UINT32_MAX:
                    (values[place],) = struct.unpack_from("<Q", extra, where)
                    where += 8
        at += 4 + length
    size, packed, offset = values
    return packed, size, offset


def _check_order(records: list[Record], directory_offset: int) -> None:
    """Records must not share a name, nor overlap by what the directory alone tells."""
    end = 0
    for record in records:
        if record.header_offset < end:
            raise StructureError(f"record {record.name} overlaps another")
        end = record.header_offset + structures.LOCAL_HEADER.size + len(record.name.encode()) + record.size
    if end > directory_offset:
        raise StructureError("truncated: the records do not fit in front of the zip directory")
    if len({record.name for record in records}) < len(records):
        raise StructureError("two records have one name")


def _check_headers(
    source: Source, records: list[Record], entries: dict[str, bytes], directory_offset: int
) -> dict[str, int]:
    """Compares local headers with the directory, and finds where the data starts."""
    offsets: dict[str, int] = {}
    end = 0
    for record in records:
        header = source.read(record.header_offset, structures.LOCAL_HEADER.size + len(record.name.encode()))
        fields = structures.LOCAL_HEADER.unpack_from(header)
        name = header[structures.LOCAL_HEADER.size :].decode()
        data_offset = record.header_offset + structures.LOCAL_HEADER.size + fields[9] + fields[10]
        if fields[0] != structures.LOCAL_SIGNATURE or name != record.name or fields[9] != len(name.encode()):
            raise StructureError(f"the header of record {record.name} is damaged")
        # CRC and sizes are zero where a descriptor tells them, and at their limit where a zip64 field does.
        expected = ({0, record.crc32}, {0, record.size}, {0, record.size})
        agrees = all(
            told in known or told == structures.UINT32_MAX
            for told, known in zip(fields[6:9], expected, strict=True)
        )
        # Flags, method, time and date.
        if not agrees or header[6:14] != entries[record.name][8:16]:
            raise StructureError(f"the header of record {record.name} and the zip directory differ")
        if record.header_offset < end:
            raise StructureError(f"record {record.name} overlaps another")
        end = data_offset + record.size
        offsets[record.name] = data_offset
    if end > directory_offset:
        raise StructureError("truncated: the records do not fit in front of the zip directory")
    return offsets


def _read_manifest(
    source: Source, record: Record, records: list[Record], data_offsets: dict[str, int]
) -> Manifest:
    if record.size > manifest.most_bytes(one.name for one in records):
        raise StructureError("the manifest is too large to be one")
    data = source.read(data_offsets[record.name], record.size)
    if isal_zlib.crc32(data) != record.crc32:
        raise StructureError("the manifest is damaged: its CRC does not hold")
    try:
        found = Manifest.from_json(data)
    except NewerFormat:
        raise
    except ValueError as error:
        raise StructureError(str(error)) from error
    written = [{"name": one.name, "size": one.size, "crc32": one.crc32} for one in records if one != record]
    if found.records != written:
        raise StructureError("the records are not those that the manifest lists")
    return found


def has_checksums(container: Container) -> bool:
    """Whether the CRCs were computed; `torch.serialization.set_crc32_options(False)` leaves them all zero."""
    return any(record.crc32 for record in container.records)
