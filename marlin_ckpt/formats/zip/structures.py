"""The zip container as `torch.save` lays it out: the fixed structures, and nothing that reads or writes.

Source of the structures: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.3. Source of torch's choices
(data aligned to 64 bytes by an extra field "FB", a data descriptor after each record that is not empty):
caffe2/serialize/inline_container.cc and miniz.c of torch 2.13. `torch.utils.serialization.config.load.
calculate_storage_offsets` computes offsets from these choices instead of reading them, so they must be kept.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

ARCHIVE = "archive"
ALIGNMENT = 64
UINT32_MAX = 0xFFFFFFFF
UINT16_MAX = 0xFFFF

LOCAL_HEADER = struct.Struct("<4sHHHHHLLLHH")
CENTRAL_ENTRY = struct.Struct("<4sHHHHHHLLLHHHHHLL")
END = struct.Struct("<4sHHHHLLH")
END64 = struct.Struct("<4sQHHLLQQQQ")
END64_LOCATOR = struct.Struct("<4sLQL")

LOCAL_SIGNATURE = b"PK\x03\x04"
DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
CENTRAL_SIGNATURE = b"PK\x01\x02"
END_SIGNATURE = b"PK\x05\x06"
END64_SIGNATURE = b"PK\x06\x06"
END64_LOCATOR_SIGNATURE = b"PK\x06\x07"

STORED, DEFLATED = 0, 8  # methods
HAS_DESCRIPTOR = 0x0008
ZIP64_EXTRA = 0x0001
_UTF8 = 0x0800
_ZIP64_VERSION = 45
_PADDING_EXTRA = b"FB"
_EXTRA_HEAD_BYTES = 4
_DESCRIPTOR, _DESCRIPTOR64 = struct.Struct("<4sLLL"), struct.Struct("<4sLQQ")


class Record(NamedTuple):
    """One record of a zip file.

    Attributes:
        name: its full name, `archive/data/0`.
        size: the length of its data in bytes.
        crc32: the CRC32 of its data.
        header_offset: where its local header begins in the file, in bytes.
        deflated_bytes: the length of its deflated data in bytes; None if the data is stored as it is.
    """

    name: str
    size: int
    crc32: int
    header_offset: int
    deflated_bytes: int | None = None

    @property
    def label(self) -> str:
        """Its name inside the archive, `data/0`."""
        return self.name.partition("/")[2]

    @property
    def stored_bytes(self) -> int:
        """How many bytes of the file its data takes."""
        return self.size if self.deflated_bytes is None else self.deflated_bytes

    @property
    def is_zip64(self) -> bool:
        """Whether its size or offset needs more than 32 bits."""
        return self.size >= UINT32_MAX or self.header_offset >= UINT32_MAX


def local_header(name: str, size: int, offset: int) -> bytes:
    """The header in front of a record's data, padded so that the data starts at a multiple of 64 bytes."""
    encoded = name.encode()
    if size < UINT32_MAX and offset < UINT32_MAX:
        extra, version, shown = b"", 0, 0
    else:
        extra, version = zip64_extra((size, size), offset), _ZIP64_VERSION
        shown = UINT32_MAX if size >= UINT32_MAX else 0
    unpadded = LOCAL_HEADER.size + len(encoded) + len(extra) + _EXTRA_HEAD_BYTES
    extra += _PADDINGS[-(offset + unpadded) % ALIGNMENT]
    fixed = LOCAL_HEADER.pack(
        LOCAL_SIGNATURE, version, flags(size), STORED, 0, 0, 0, shown, shown, len(encoded), len(extra)
    )
    return fixed + encoded + extra


def local_header_bytes(name_bytes: int, size: int, offset: int) -> int:
    """The length of a local header, which planning a file takes a million times."""
    unpadded = LOCAL_HEADER.size + name_bytes + _EXTRA_HEAD_BYTES + _zip64_extra_bytes(size, offset)
    return unpadded + -(offset + unpadded) % ALIGNMENT


def descriptor_bytes(size: int, offset: int) -> int:
    """The length of what `descriptor` returns for a record of this size whose header is at this offset."""
    if not size:
        return 0
    return _DESCRIPTOR64.size if size >= UINT32_MAX or offset >= UINT32_MAX else _DESCRIPTOR.size


def central_entry_bytes(name_bytes: int, size: int, offset: int) -> int:
    """The length of what `central_entry` returns for such a record."""
    return CENTRAL_ENTRY.size + name_bytes + _zip64_extra_bytes(size, offset)


def _zip64_extra_bytes(size: int, offset: int) -> int:
    values = 2 * (size >= UINT32_MAX) + (offset >= UINT32_MAX)
    return _EXTRA_HEAD_BYTES + 8 * values if values else 0


def flags(size: int) -> int:
    """The flags of a record of this size: names are UTF-8, and a descriptor follows data."""
    return _UTF8 | (HAS_DESCRIPTOR if size else 0)


def zip64_extra(sizes: tuple[int, int], offset: int) -> bytes:
    """The extra field for what does not fit into 32 bits; nothing where all does.

    Args:
        sizes: of the data, and of the data as it is stored.
        offset: of the local header.
    """
    values = list(sizes) if max(sizes) >= UINT32_MAX else []
    values += [offset] if offset >= UINT32_MAX else []
    return struct.pack(f"<HH{len(values)}Q", ZIP64_EXTRA, 8 * len(values), *values) if values else b""


def padding(size: int) -> bytes:
    """The extra field with which torch moves the data to where it shall start."""
    return struct.pack("<2sH", _PADDING_EXTRA, size) + b"Z" * size


_PADDINGS = tuple(map(padding, range(ALIGNMENT)))


def descriptor(record: Record) -> bytes:
    """What follows a record's data; nothing where there is no data."""
    if not record.size:
        return b""
    form = _DESCRIPTOR64 if record.is_zip64 else _DESCRIPTOR
    return form.pack(DESCRIPTOR_SIGNATURE, record.crc32, record.stored_bytes, record.size)


def central_entry(record: Record) -> bytes:
    """A record's entry in the directory at the end."""
    encoded = record.name.encode()
    size, stored, offset, extra = record.size, record.stored_bytes, record.header_offset, b""
    if size >= UINT32_MAX or stored >= UINT32_MAX or offset >= UINT32_MAX:
        extra = zip64_extra((size, stored), offset)
        size, stored, offset = min(size, UINT32_MAX), min(stored, UINT32_MAX), min(offset, UINT32_MAX)
    method = STORED if record.deflated_bytes is None else DEFLATED
    fixed = CENTRAL_ENTRY.pack(
        CENTRAL_SIGNATURE, 0, _ZIP64_VERSION if extra else 0, flags(size), method, 0, 0,
        record.crc32, stored, size, len(encoded), len(extra), 0, 0, 0, 0, offset,
    )  # fmt: skip
    return fixed + encoded + extra


def lay_out(records: Iterable[tuple[str, int, int]]) -> Iterator[tuple[Record, int]]:
    """Where records lie one behind the other in a file of ours.

    Args:
        records: name, size and CRC32 of each.

    Yields:
        each record, and where its data starts.
    """
    at = 0
    for name, size, crc32 in records:
        record = Record(name, size, crc32, at)
        start = at + local_header_bytes(len(name.encode()), size, at)
        yield record, start
        at = start + size + descriptor_bytes(size, record.header_offset)


def end_records(
    count: int, directory_size: int, directory_offset: int, *, always_zip64: bool = False
) -> bytes:
    """What ends the file and tells where the directory is; torch writes the zip64 form of it always."""
    zip64 = b""
    if always_zip64 or count >= UINT16_MAX or directory_size >= UINT32_MAX or directory_offset >= UINT32_MAX:
        here = directory_offset + directory_size
        zip64 = END64.pack(
            END64_SIGNATURE, END64.size - 12, _ZIP64_VERSION, _ZIP64_VERSION, 0, 0,
            count, count, directory_size, directory_offset,
        ) + END64_LOCATOR.pack(END64_LOCATOR_SIGNATURE, 0, here, 1)  # fmt: skip
    count = min(count, UINT16_MAX)
    sizes = min(directory_size, UINT32_MAX), min(directory_offset, UINT32_MAX)
    return zip64 + END.pack(END_SIGNATURE, 0, 0, count, count, *sizes, 0)
