"""The zip container as `torch.save` lays it out: the fixed structures, and nothing that reads or writes.

Source of the structures: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.3. Source of torch's choices
(data aligned to 64 bytes by an extra field "FB", a data descriptor after each record that is not empty):
caffe2/serialize/inline_container.cc and miniz.c of torch 2.13. `torch.utils.serialization.config.load.
calculate_storage_offsets` computes offsets from these choices instead of reading them, so they must be kept.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from isal import isal_zlib

ARCHIVE = "archive"
ALIGNMENT = 64
MOST_ALIGNMENT = 1 << 16
ALIGNMENT_LABEL = ".storage_alignment"
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
_GAP_BYTES = 64
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


def local_header(name: str, size: int, offset: int, alignment: int = ALIGNMENT, inner: int = 0) -> bytes:
    """The header in front of a record's data, padded.

    Args:
        name: of the record.
        size: of its data.
        offset: where the header begins.
        alignment: at a multiple of this the data starts, or the byte of it that `inner` says.
        inner: how far this byte is from the data's start.
    """
    encoded = name.encode()
    if size < UINT32_MAX and offset < UINT32_MAX:
        extra, version, shown = b"", 0, 0
    else:
        extra, version = zip64_extra((size, size), offset), _ZIP64_VERSION
        shown = UINT32_MAX if size >= UINT32_MAX else 0
    unpadded = LOCAL_HEADER.size + len(encoded) + len(extra) + _EXTRA_HEAD_BYTES
    padded = -(offset + unpadded + inner) % alignment
    extra += _PADDINGS[padded] if padded < ALIGNMENT else padding(padded)
    fixed = LOCAL_HEADER.pack(
        LOCAL_SIGNATURE, version, flags(size), STORED, 0, 0, 0, shown, shown, len(encoded), len(extra)
    )
    return fixed + encoded + extra


def local_header_bytes(
    name_bytes: int, size: int, offset: int, alignment: int = ALIGNMENT, inner: int = 0
) -> int:
    """The length of a local header, which planning a file takes a million times."""
    unpadded = LOCAL_HEADER.size + name_bytes + _EXTRA_HEAD_BYTES + _zip64_extra_bytes(size, offset)
    return unpadded + -(offset + unpadded + inner) % alignment


def header_offset(name_bytes: int, size: int, at: int, alignment: int = ALIGNMENT, inner: int = 0) -> int:
    """Where the local header of a record begins: where the one before ends, but for an extra field too long.

    An extra field has at most 65,535 bytes, and aligning to 65,536 may need a few more. Then 64 zeros stand
    in front of the header, and the data starts where it would have. `torch.save` itself, as of 2.13, writes a
    field that is too long, so that another tensor is read than was saved.

    Args:
        name_bytes: the length of the record's name.
        size: of its data.
        at: where the record before it ends.
        alignment: as for `local_header`.
        inner: likewise.
    """
    if alignment <= UINT16_MAX // 2:
        return at
    extra = local_header_bytes(name_bytes, size, at, alignment, inner) - LOCAL_HEADER.size - name_bytes
    return at + _GAP_BYTES if extra > UINT16_MAX else at


def place(name_bytes: int, size: int, at: int, alignment: int = ALIGNMENT, inner: int = 0) -> tuple[int, int]:
    """Where a record's local header begins, and where its data; for the arguments see `header_offset`."""
    offset = header_offset(name_bytes, size, at, alignment, inner)
    return offset, offset + local_header_bytes(name_bytes, size, offset, alignment, inner)


# Powers of two, by the size and the CRC32 of what the record of that name says.
_ALIGNMENTS = {
    (len(text), isal_zlib.crc32(text)): 1 << power
    for power in range(ALIGNMENT.bit_length() - 1, MOST_ALIGNMENT.bit_length())
    for text in [str(1 << power).encode()]
}


def alignment_of(records: Iterable[Record | tuple[str, int, int]]) -> int:
    """The multiple at which a file of ours has its data; no record is read to know it.

    Args:
        records: name, size and CRC32 of each.
    """
    name = f"{ARCHIVE}/{ALIGNMENT_LABEL}"
    said = next((one[1:3] for one in records if one[0] == name), None)
    return ALIGNMENT if said is None else _ALIGNMENTS.get(said, ALIGNMENT)


def data_offset(record: Record, alignment: int = ALIGNMENT) -> int:
    """Where the data of a record begins that `local_header` has made the header of."""
    named = len(record.name.encode())
    return record.header_offset + local_header_bytes(named, record.size, record.header_offset, alignment)


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
        records: name, size and CRC32 of each, the one that says the alignment among them.

    Yields:
        each record, and where its data starts.
    """
    at, rows = 0, [*records]
    alignment = alignment_of(rows)
    for name, size, crc32 in rows:
        offset, start = place(len(name.encode()), size, at, alignment)
        yield Record(name, size, crc32, offset), start
        at = start + size + descriptor_bytes(size, offset)


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
