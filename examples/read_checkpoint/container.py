"""The zip container of a checkpoint by marlin-ckpt, and the manifest in it: read, laid out anew, compared."""

from __future__ import annotations

import json
import os
import struct
import zlib
from typing import Any, BinaryIO, NamedTuple

LOCAL, ENTRY = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L")
END, END64, LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
LIMIT, MOST_ENTRIES = 0xFFFFFFFF, 0xFFFF
PIECE = 1 << 20


class BadCheckpointError(Exception):
    """A checkpoint is not intact; the text says why."""


class Record(NamedTuple):
    """One record, as the directory has it."""

    name: str
    size: int
    crc32: int
    offset: int


def read(file: BinaryIO, offset: int, size: int) -> bytes:
    """Reads bytes that have to be there."""
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise BadCheckpointError("the file is too short")
    return data


def crc32_of(file: BinaryIO, offset: int, size: int) -> int:
    """The CRC32 of bytes of any number."""
    crc32 = 0
    for done in range(0, size, PIECE):
        crc32 = zlib.crc32(read(file, offset + done, min(PIECE, size - done)), crc32)
    return crc32


def read_directory(file: BinaryIO) -> tuple[list[Record], int]:
    """The records, in the order of the directory, and where the directory starts."""
    size = file.seek(0, os.SEEK_END)
    if size < END.size or read(file, 0, 4) != b"PK\x03\x04":
        raise BadCheckpointError("not a checkpoint by marlin-ckpt")
    signature, _, _, _, count, length, start, comment = END.unpack(read(file, size - END.size, END.size))
    if signature != b"PK\x05\x06" or comment:
        raise BadCheckpointError("the end record is missing: the file is cut short, or bytes follow it")
    where = size - END.size - LOCATOR.size
    if where > END64.size and (found := read(file, where, LOCATOR.size)).startswith(b"PK\x06\x07"):
        end64 = END64.unpack(read(file, LOCATOR.unpack(found)[2], END64.size))
        count, length, start = end64[7:]
    data = read(file, start, length)
    records, at = [], 0
    for _ in range(count):
        records.append(_record(data, at))
        at += len(entry(records[-1]))
    return records, start


def _record(data: bytes, at: int) -> Record:
    try:
        fields = ENTRY.unpack_from(data, at)
        crc32, stored, size, named, extra, offset = (*fields[7:12], fields[16])
        name = data[at + ENTRY.size : at + ENTRY.size + named].decode()
        rest = data[at + ENTRY.size + named + 4 :][: max(extra - 4, 0)]
        values = iter(struct.unpack(f"<{len(rest) // 8}Q", rest))
        size, stored, offset = (next(values) if one == LIMIT else one for one in (size, stored, offset))
    except (struct.error, ValueError, StopIteration, RuntimeError) as error:
        raise BadCheckpointError("the directory is damaged") from error
    return Record(name, size, crc32, offset)


def zip64(sizes: list[int], offset: int) -> bytes:
    """The zip64 block of an extra field; none where all numbers fit into 32 bits."""
    values = [*(sizes if max(sizes) >= LIMIT else []), *([offset] if offset >= LIMIT else [])]
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def flags(record: Record) -> int:
    """The flags of a record."""
    return 0x0808 if record.size else 0x0800


def header(record: Record) -> bytes:
    """Local header, name and extra field of a record, as marlin-ckpt writes them."""
    name, extra = record.name.encode(), zip64([record.size] * 2, record.offset)
    version, shown = 45 if extra else 0, LIMIT if record.size >= LIMIT else 0
    padding = -(record.offset + LOCAL.size + len(name) + len(extra) + 4) % 64
    extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    sizes = (0, shown, shown, len(name), len(extra))
    return LOCAL.pack(b"PK\x03\x04", version, flags(record), 0, 0, 0, *sizes) + name + extra


def descriptor(record: Record) -> bytes:
    """What follows the data of a record."""
    if not record.size:
        return b""
    sizes = "2Q" if max(record.size, record.offset) >= LIMIT else "2L"
    return struct.pack("<4sL" + sizes, b"PK\x07\x08", record.crc32, record.size, record.size)


def entry(record: Record) -> bytes:
    """The entry of a record in the directory."""
    name, extra = record.name.encode(), zip64([record.size] * 2, record.offset)
    size = min(record.size, LIMIT)
    numbers = (record.crc32, size, size, len(name), len(extra), 0, 0, 0, 0, min(record.offset, LIMIT))
    return ENTRY.pack(b"PK\x01\x02", 0, 45 if extra else 0, flags(record), 0, 0, 0, *numbers) + name + extra


def end(count: int, size: int, offset: int) -> bytes:
    """What ends the file."""
    ended = b""
    if count >= MOST_ENTRIES or max(size, offset) >= LIMIT:
        ended = END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
        ended += LOCATOR.pack(b"PK\x06\x07", 0, offset + size, 1)
    shown = (min(count, MOST_ENTRIES), min(count, MOST_ENTRIES), min(size, LIMIT), min(offset, LIMIT))
    return ended + END.pack(b"PK\x05\x06", 0, 0, *shown, 0)


def check_layout(file: BinaryIO, records: list[Record], start: int) -> dict[str, int]:
    """Lays the container out anew, compares all that is no data, and returns where each record's data is."""
    places: dict[str, int] = {}
    at = 0
    for record in records:
        expected = header(record)
        if record.offset != at or read(file, at, len(expected)) != expected or record.name in places:
            raise BadCheckpointError(f"the header of {record.name} is damaged, or another tool wrote it")
        places[record.name] = at + len(expected)
        at = places[record.name] + record.size
        if read(file, at, len(descriptor(record))) != descriptor(record):
            raise BadCheckpointError(f"the descriptor of {record.name} is damaged")
        at += len(descriptor(record))
    entries = b"".join(map(entry, records))
    ended = entries + end(len(records), len(entries), at)
    if at != start or read(file, at, file.seek(0, os.SEEK_END) - at) != ended:
        raise BadCheckpointError("the directory is damaged")
    return places


def read_manifest(data: bytes) -> dict[str, Any]:
    """The manifest, with all the keys that it has to have."""
    try:
        found = json.loads(data)
        version = found["format_version"]
        needed = ("kind", "index", "created", "run_id", "save_number", "metrics", "versions", "records")
        missing = [key for key in needed if key not in found]
        listed = [(one["name"], one["size"], one["crc32"]) for one in found["records"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadCheckpointError("the manifest is damaged") from error
    if type(version) is int and version > 1:
        raise BadCheckpointError(f"the manifest has format {version}: a newer reader is needed")
    if version != 1 or missing or len(set(listed)) < len(listed):
        raise BadCheckpointError("the manifest is damaged")
    return {**found, "records": listed}


def check_manifest(manifest: dict[str, Any], records: list[Record]) -> None:
    """Compares the list in a file's manifest with all records but the manifest itself."""
    others = [(one.name, one.size, one.crc32) for one in records if "/.marlin/manifest.json" not in one.name]
    if sorted(manifest["records"]) != sorted(others):
        raise BadCheckpointError("the records are not those that the manifest lists")
