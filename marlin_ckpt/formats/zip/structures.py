"""The zip container as `torch.save` lays it out: the fixed structures, and nothing that reads or writes.

Source of the structures: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3. Source of torch's choices
(data aligned to 64 bytes by an extra field "FB", a data descriptor after each record that is not empty):
caffe2/serialize/inline_container.cc and miniz.c of torch 2.13. `torch.utils.serialization.config.load.
calculate_storage_offsets` computes offsets from these choices instead of reading them, so they must be kept.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

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

HAS_DESCRIPTOR = 0x0008
_UTF8 = 0x0800
_ZIP64_VERSION = 45
_ZIP64_EXTRA = 0x0001
_PADDING_EXTRA = b"FB"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a container.

    Attributes:
        name: its whole name, `archive/data/0`.
        size: the length of its data in bytes.
        crc32: the CRC32 of its data.
        header_offset: where its local header starts.
    """

    name: str
    size: int
    crc32: int
    header_offset: int

    @property
    def is_zip64(self) -> bool:
        """Whether its size or place needs more than 32 bits."""
        return self.size >= UINT32_MAX or self.header_offset >= UINT32_MAX


def local_header(name: str, size: int, offset: int) -> bytes:
    """The header in front of a record's data, padded so that the data starts at a multiple of 64 bytes."""
    encoded = name.encode()
    zip64 = b""
    if size >= UINT32_MAX or offset >= UINT32_MAX:
        values = [size, size] if size >= UINT32_MAX else []
        values += [offset] if offset >= UINT32_MAX else []
        zip64 = struct.pack(f"<HH{len(values)}Q", _ZIP64_EXTRA, 8 * len(values), *values)
    start = offset + LOCAL_HEADER.size + len(encoded) + len(zip64) + 4
    padding = b"Z" * (-start % ALIGNMENT)
    extra = zip64 + struct.pack("<2sH", _PADDING_EXTRA, len(padding)) + padding
    flags = _UTF8 | (HAS_DESCRIPTOR if size else 0)
    version = _ZIP64_VERSION if zip64 else 0
    shown = UINT32_MAX if size >= UINT32_MAX else 0
    fixed = LOCAL_HEADER.pack(
        LOCAL_SIGNATURE, version, flags, 0, 0, 0, 0, shown, shown, len(encoded), len(extra)
    )
    return fixed + encoded + extra


def descriptor(record: Record) -> bytes:
    """What follows a record's data; nothing where there is no data."""
    if not record.size:
        return b""
    sizes = "QQ" if record.is_zip64 else "LL"
    return struct.pack(f"<4sL{sizes}", DESCRIPTOR_SIGNATURE, record.crc32, record.size, record.size)


def central_entry(record: Record) -> bytes:
    """A record's entry in the directory at the end."""
    encoded = record.name.encode()
    values = [record.size, record.size] if record.size >= UINT32_MAX else []
    values += [record.header_offset] if record.header_offset >= UINT32_MAX else []
    extra = struct.pack(f"<HH{len(values)}Q", _ZIP64_EXTRA, 8 * len(values), *values) if values else b""
    flags = _UTF8 | (HAS_DESCRIPTOR if record.size else 0)
    version = _ZIP64_VERSION if values else 0
    size = min(record.size, UINT32_MAX)
    offset = min(record.header_offset, UINT32_MAX)
    fixed = CENTRAL_ENTRY.pack(
        CENTRAL_SIGNATURE, 0, version, flags, 0, 0, 0, record.crc32, size, size,
        len(encoded), len(extra), 0, 0, 0, 0, offset,
    )  # fmt: skip
    return fixed + encoded + extra


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
