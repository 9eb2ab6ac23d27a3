"""The lengths that values are padded to, so that the next save of a value has it in the same place."""

import functools

from isal import isal_zlib

from marlin_ckpt.formats.values.window import Memory
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.directory import Directory, read_directory
from marlin_ckpt.formats.zip.structures import Record

_LEAST_BYTES = 1024  # the file of a number takes nearly as much
_STEP_BYTES = 1 << 20  # above this, slots are multiples of it
_PADDING = ".marlin/padding"
# What the record that pads takes beside its zeros: at most; its name begins as those of the file do.
_PADDING_BYTES = 512


def slot_bytes(size_bytes: int) -> int:
    """The length that a value's file of this length is padded to: 1, 2, 4, ... KiB, and whole MiB."""
    least = max(_LEAST_BYTES, size_bytes + _PADDING_BYTES)
    if least > _STEP_BYTES:
        return -(-least // _STEP_BYTES) * _STEP_BYTES
    return 1 << (least - 1).bit_length()


def padded(data: bytes, slot: int) -> bytes:
    """Pads a file of `torch.save` by a record of zeros, which every reader passes over.

    Args:
        data: the file.
        slot: the length that it gets, of `slot_bytes`.

    Raises:
        StructureError: it is no such file.
        ValueError: the slot is too small for it.
    """
    directory = read_directory(Memory("", memoryview(data)))
    archive = directory.records[0].name.partition("/")[0]
    name, at = f"{archive}/{_PADDING}", directory.offset
    end = functools.partial(_end, directory, data[at : directory.end_offset])
    header = structures.local_header(name, 1, at)
    taken = at + len(header) + structures.descriptor_bytes(1, at) + len(end(Record(name, 1, 0, at)))
    zeros = bytes(max(0, slot - taken))
    if not zeros:
        raise ValueError(f"{len(data):,} bytes do not fit into a slot of {slot:,}")
    record = Record(name, len(zeros), isal_zlib.crc32(zeros), at)
    return b"".join([data[:at], header, zeros, structures.descriptor(record), end(record)])


def _end(directory: Directory, entries: bytes, record: Record) -> bytes:
    """The directory of a file to which a record was added, and what follows it."""
    entries += structures.central_entry(record)
    count, at = len(directory.entries) + 1, directory.offset
    at += structures.local_header_bytes(len(record.name.encode()), record.size, at) + record.size
    at += structures.descriptor_bytes(record.size, record.header_offset)
    is_zip64 = directory.has_zip64_end
    return entries + structures.end_records(count, len(entries), at, always_zip64=is_zip64)
