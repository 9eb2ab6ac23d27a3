"""Reads the structures of any zip, whoever wrote it: the directory at its end, and the local headers."""

import contextlib
import functools
import operator
import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

# An end record may be followed by a comment of 65,535 bytes.
TAIL = structures.END64_LOCATOR.size + structures.END.size + structures.UINT16_MAX
_IS_FOLDER = 0x10  # the attribute of MS-DOS, in the external attributes of a zip entry
_HEADER_BYTES = 256  # read at once: the fixed part of a local header and the name of nearly every record
# What is read of an entry in the directory; as `structures.CENTRAL_ENTRY`, which gives all of it.
_ENTRY = struct.Struct("<4s6xH4xLLLHHH4xLL")
_END64_UNCOUNTED = 12  # bytes of a zip64 end record that its own length leaves out: signature and length


class StructureError(Exception):
    """A container does not hold together; its text says where."""


class Directory(NamedTuple):
    """The directory of a zip.

    Attributes:
        records: in the order of their place in the file.
        entries: the bytes of each record's entry, by its name, in the order of the directory.
        offset: where the directory starts.
        end_offset: where the records that end the file start.
        has_folders: whether there are entries for folders, which `records` leaves out.
        has_zip64_end: whether a zip64 end record says where the directory is.
    """

    records: tuple[Record, ...]
    entries: dict[str, bytes]
    offset: int
    end_offset: int
    has_folders: bool
    has_zip64_end: bool


class LocalHeader(NamedTuple):
    """What the header in front of a record's data says.

    Attributes:
        name: as it is encoded there.
        how: flags, method, time and date, as the directory repeats them.
        flags: see `structures.HAS_DESCRIPTOR`.
        method: `structures.STORED` or another.
        crc32: of the data; like the lengths, zero where a descriptor tells it.
        stored_bytes: the length of the data as it is stored.
        size: the length of the data.
        data_offset: where the data starts.
    """

    name: bytes
    how: bytes
    flags: int
    method: int
    crc32: int
    stored_bytes: int
    size: int
    data_offset: int


def read_exactly(source: Source, offset: int, size: int) -> bytes:
    """Reads bytes that the file had when it was opened.

    Raises:
        CorruptCheckpointError: it has become shorter.
        StorageError: it cannot be read.
    """
    data = source.read(offset, size)
    if len(data) < size:
        raise CorruptCheckpointError("truncated while it was read", source.path)
    return data


def read_header(source: Source, offset: int) -> LocalHeader | None:
    """Reads a local header without its extra fields; None where there is none."""
    data = source.read(offset, _HEADER_BYTES)
    if len(data) < structures.LOCAL_HEADER.size or not data.startswith(structures.LOCAL_SIGNATURE):
        return None
    _, _, flags, method, _, _, crc32, stored, size, named, extra = structures.LOCAL_HEADER.unpack_from(data)
    end = structures.LOCAL_HEADER.size + named
    if end > len(data):
        data = source.read(offset, end)
    name = data[structures.LOCAL_HEADER.size : end]
    return LocalHeader(name, data[6:14], flags, method, crc32, stored, size, offset + end + extra)


def read_directory(source: Source) -> Directory:
    """Reads the directory at a container's end.

    Raises:
        StructureError: it is damaged, or missing.
    """
    data, count, offset, end, is_zip64 = _read(source)
    try:
        records, entries, has_folders = _parse_entries(data, count)
    except (struct.error, UnicodeDecodeError) as error:
        raise StructureError("the zip directory is damaged") from error
    check_places([(one, one.header_offset + _least_bytes(one.name)) for one in records], offset)
    return Directory(tuple(records), entries, offset, end, has_folders, is_zip64)


def _least_bytes(name: str) -> int:
    """Those of a local header with such a name."""
    return structures.LOCAL_HEADER.size + (len(name) if name.isascii() else len(name.encode()))


def find_record(source: Source, label: str) -> Record | None:
    """Finds one record by its name in its archive, without a look at the others: they may be thousands.

    Raises:
        StructureError: the directory is damaged, as far as it was read.
    """
    data, *_ = _read(source)
    at = data.rfind(f"/{label}".encode())
    if at < 0:
        return None
    start = data.rfind(structures.CENTRAL_SIGNATURE, 0, at)
    with contextlib.suppress(struct.error, ValueError, StructureError):
        *_, named, extra, comment, _, _, _, _ = structures.CENTRAL_ENTRY.unpack_from(data, max(start, 0))
        end = start + structures.CENTRAL_ENTRY.size + named + extra + comment
        (found,), _, _ = _parse_entries(data[start:end], 1)
        if found.label == label:
            return found
    # The name is a folder's, or a part of another one's, or what looked like the beginning of its entry is.
    return next((one for one in read_directory(source).records if one.label == label), None)


def _read(source: Source) -> tuple[bytes, int, int, int, bool]:
    """The bytes of the directory, and what the end record says of it, as `_place` returns it."""
    size = source.size_bytes
    tail_offset = max(0, size - TAIL)
    tail = read_exactly(source, tail_offset, size - tail_offset)
    fault = StructureError("truncated: the zip directory at its end is missing")
    for number, at in enumerate(_possible_ends(tail)):
        try:
            count, offset, end, is_zip64 = _place(source, tail, tail_offset, at)
        except StructureError as error:
            fault = fault if number else error
        else:
            return read_exactly(source, offset, end - offset), count, offset, end, is_zip64
    raise fault


def _possible_ends(tail: bytes) -> list[int]:
    """Where the end record may be, the likeliest place first: any field or comment may look like one."""
    last = len(tail) - structures.END.size
    found = [match.start() for match in re.finditer(re.escape(structures.END_SIGNATURE), tail)]
    if last in found and tail.endswith(b"\0\0"):
        return [last]  # it has no comment
    return [at for at in reversed(found) if at <= last]


def _place(source: Source, tail: bytes, tail_offset: int, at: int) -> tuple[int, int, int, bool]:
    """What an end record says: how many entries, from where to where, and whether by a zip64 end record."""
    *_, count, size, offset, comment = structures.END.unpack_from(tail, at)
    if at + structures.END.size + comment != len(tail):
        raise StructureError("bytes follow the end of the zip")
    end = tail_offset + at
    locator = at - structures.END64_LOCATOR.size
    has_locator = locator >= 0 and tail.startswith(structures.END64_LOCATOR_SIGNATURE, locator)
    if has_locator:
        _, _, where, _ = structures.END64_LOCATOR.unpack_from(tail, locator)
        data = source.read(where, structures.END64.size) if where < end else b""
        if data.startswith(structures.END64_SIGNATURE) and len(data) == structures.END64.size:
            _, length, *_, count64, size64, offset64 = structures.END64.unpack(data)
            is_next = where + _END64_UNCOUNTED + length == tail_offset + locator
            if is_next and offset64 + size64 == where:
                shown = (count, count64, structures.UINT16_MAX), (size, size64, structures.UINT32_MAX)
                for short, value, limit in (*shown, (offset, offset64, structures.UINT32_MAX)):
                    if short not in (value, limit):
                        raise StructureError("the two records that end the zip differ")
                return count64, offset64, where, True
    if offset + size != end:
        what = "the zip64 end record is missing"
        raise StructureError(what if has_locator else "the zip directory is not where the file's end says")
    return count, offset, end, False


def _parse_entries(data: bytes, count: int) -> tuple[list[Record], dict[str, bytes], bool]:
    """The records in the order of their place, the bytes of their entries, and whether there are folders."""
    records = []
    entries: dict[str, bytes] = {}
    has_folders = False
    unpack, fixed_bytes = _ENTRY.unpack_from, _ENTRY.size
    new_record = functools.partial(tuple.__new__, Record)  # as `Record` does, in half the time
    at = 0
    for _ in range(count):
        start = at
        signature, method, crc32, stored, size, named, extra_size, comment_size, attributes, offset = unpack(
            data, at
        )
        if signature != structures.CENTRAL_SIGNATURE:
            raise StructureError("the zip directory is damaged")
        extra_offset = at + fixed_bytes + named
        name = data[at + fixed_bytes : extra_offset].decode()
        at = extra_offset + extra_size + comment_size
        if extra_size:
            extra = data[extra_offset : extra_offset + extra_size]
            size, stored, offset = _zip64_values(extra, [size, stored, offset])
        if attributes & _IS_FOLDER or name.endswith("/"):
            if size or not name.endswith("/"):
                # torch's reader would skip the data and hand out memory that nothing was read into.
                raise StructureError(f"record {name} says that it is a directory")
            has_folders = True
            continue
        if name in entries:
            raise StructureError("two records have one name")
        entries[name] = data[start:at]
        is_as_it_is = method == structures.STORED and stored == size
        deflated = None if is_as_it_is else _deflated_bytes(name, method, stored)
        records.append(new_record((name, size, crc32, offset, deflated)))
    if at != len(data):
        raise StructureError("the zip directory has another length than it says")
    return sorted(records, key=operator.attrgetter("header_offset")), entries, has_folders


def _deflated_bytes(name: str, method: int, stored: int) -> int:
    """The length of the deflated data of a record that is not stored as it is."""
    if method == structures.DEFLATED:
        return stored
    if method != structures.STORED:
        raise StructureError(f"record {name} is compressed by method {method}, which torch does not read")
    raise StructureError(f"record {name} is stored in another length than it has")


def _zip64_values(extra: bytes, values: list[int]) -> list[int]:
    """Replaces the values that are at their 32-bit limit by those of the zip64 extra field, in its order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == structures.ZIP64_EXTRA:
            where = at + 4
            for place, value in enumerate(values):
                if value == structures.UINT32_MAX:
                    (values[place],) = struct.unpack_from("<Q", extra, where)
                    where += 8
        at += 4 + length
    return values


def check_places(places: Iterable[tuple[Record, int]], directory_offset: int) -> None:
    """Checks that records lie behind one another, and in front of the directory.

    Args:
        places: the records in the order of their place, and where the data of each starts at the earliest.
        directory_offset: where the directory starts.

    Raises:
        StructureError: they do not.
    """
    end = 0
    for (name, size, _, offset, deflated_bytes), start in places:
        if offset < end:
            raise StructureError(f"record {name} overlaps another")
        end = start + (size if deflated_bytes is None else deflated_bytes)
    if end > directory_offset:
        raise StructureError("truncated: the records do not fit in front of the zip directory")
