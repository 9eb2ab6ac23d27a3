"""Where the records of a damaged container may lie, and which of them their CRC proves."""

from __future__ import annotations

import bisect
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from isal import isal_zlib

from marlin_ckpt.formats import manifest
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.zip import reader, structures
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

_PIECE_BYTES = 1 << 20
_LONGEST_NAME = 1024
_DESCRIPTOR = struct.Struct("<4sLLL")
_DESCRIPTOR64 = struct.Struct("<4sLQQ")
_SIGNATURE = re.compile(
    re.escape(structures.LOCAL_SIGNATURE) + b"|" + re.escape(structures.DESCRIPTOR_SIGNATURE)
)


@dataclass(frozen=True, slots=True)
class Found:
    """Where the data of a record may lie, and the CRC32 that would prove it."""

    name: str
    start: int
    size: int
    crc32: int


class Evidence:
    """Records whose CRC was seen to hold."""

    def __init__(self, source: Source) -> None:
        self._source = source
        # Lying records that overlap would else keep us reading the same bytes over and over.
        self._left_bytes = 4 * source.size_bytes
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.proven: dict[str, Found] = {}

    def consider(self, found: Found) -> None:
        """Checks a record, unless one of its name is proven, or it lies in one: a tensor may hold a zip."""
        at = bisect.bisect_right(self._starts, found.start)
        is_inside = at > 0 and found.start < self._ends[at - 1]
        if found.name in self.proven or is_inside or found.size > self._left_bytes:
            return
        self._left_bytes -= found.size
        if _crc(self._source, found) == found.crc32:
            self.proven[found.name] = found
            self._starts.insert(at, found.start)
            self._ends.insert(at, found.start + found.size)


def _crc(source: Source, found: Found) -> int:
    crc32 = done = 0
    while done < found.size:
        data = source.read(found.start + done, min(_PIECE_BYTES, found.size - done))
        if not data:
            return -1
        crc32 = isal_zlib.crc32(data, crc32)
        done += len(data)
    return crc32


def from_directory(source: Source) -> Iterator[Found]:
    """The records that the zip directory lists; none where it is damaged."""
    try:
        records, *_ = reader.read_directory(source)
    except reader.DAMAGE:
        return
    for record in records:
        header = source.read(record.header_offset, structures.LOCAL_HEADER.size)
        name_size = len(record.name.encode())
        start = record.header_offset + len(
            structures.local_header(record.name, record.size, record.header_offset)
        )
        if len(header) == structures.LOCAL_HEADER.size:
            signature, *_, named, extra = structures.LOCAL_HEADER.unpack(header)
            if signature == structures.LOCAL_SIGNATURE and named == name_size:
                start = record.header_offset + len(header) + named + extra
        yield Found(_inner(record.name), start, record.size, record.crc32)


def from_headers(source: Source) -> Iterator[Found]:
    """Walks the local headers; each record's size and CRC follow its data, in the descriptor that fits it."""
    headers: list[int] = []
    ends: dict[int, list[tuple[int, int]]] = {}
    for at, is_header in _signatures(source):
        if is_header:
            headers.append(at)
            continue
        for size, crc32 in _described(source.read(at, _DESCRIPTOR64.size)):
            ends.setdefault(at - size, []).append((size, crc32))
    for at in headers:
        data = source.read(at, structures.LOCAL_HEADER.size + _LONGEST_NAME)
        if len(data) < structures.LOCAL_HEADER.size:
            continue
        _, _, flags, method, _, _, crc32, packed, size, named, extra = structures.LOCAL_HEADER.unpack_from(
            data
        )
        name = data[structures.LOCAL_HEADER.size :][:named].decode(errors="replace")
        start = at + structures.LOCAL_HEADER.size + named + extra
        if not name.isprintable() or "/" not in name or method:
            continue
        own = [(size, crc32)] if packed == size else []
        for end in ends.get(start, ()) if flags & structures.HAS_DESCRIPTOR else own:
            yield Found(_inner(name), start, *end)


def _described(descriptor: bytes) -> Iterator[tuple[int, int]]:
    """Size and CRC32 by a data descriptor, read as one of 32 and as one of 64 bits."""
    for form in (_DESCRIPTOR, _DESCRIPTOR64):
        if len(descriptor) >= form.size:
            _, crc32, packed, size = form.unpack_from(descriptor)
            if packed == size:
                yield size, crc32


def _signatures(source: Source) -> Iterator[tuple[int, bool]]:
    """Where in a file local headers and data descriptors may start, and whether it is a header."""
    at = 0
    tail = b""
    while data := source.read(at, _PIECE_BYTES):
        block = tail + data
        for match in _SIGNATURE.finditer(block):
            yield at - len(tail) + match.start(), match.group() == structures.LOCAL_SIGNATURE
        at += len(data)
        tail = block[-3:]


def from_manifest(own: Manifest | None) -> Iterator[Found]:
    """Where the layout puts the records that a manifest lists."""
    at = 0
    for row in own.records if own is not None else ():
        record = Record(str(row["name"]), int(row["size"]), int(row["crc32"]), at)
        start = at + len(structures.local_header(record.name, record.size, at))
        yield Found(_inner(record.name), start, record.size, record.crc32)
        at = start + record.size + len(structures.descriptor(record))


def read_manifest(source: Source, proven: dict[str, Found]) -> Manifest | None:
    """The manifest, if it is proven and one of a format that is known here."""
    if manifest.NAME not in proven:
        return None
    try:
        found = Manifest.from_json(read_found(source, proven[manifest.NAME]))
        list(from_manifest(found))
    except (ValueError, KeyError, TypeError, OverflowError, struct.error):
        return None
    return found


def read_found(source: Source, found: Found) -> bytes:
    """A record's data."""
    return source.read(found.start, found.size)


def _inner(name: str) -> str:
    return name.partition("/")[2]
