"""What no checksum of a container covers: is it what the writer of its records would write there?"""

from __future__ import annotations

from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

# An end record may be followed by a comment of 65,535 bytes.
TAIL = structures.END64_LOCATOR.size + structures.END.size + structures.UINT16_MAX


class StructureError(Exception):
    """A container does not hold together; its text says where."""


def check_as_ours(source: Source, records: list[Record], directory_offset: int) -> None:
    """Lays the container out anew from the records and compares: so what no CRC covers is accounted for."""
    at = 0
    for record in records:
        header = structures.local_header(record.name, record.size, at)
        descriptor = structures.descriptor(record)
        end = at + len(header) + record.size
        holds = (
            record.header_offset == at
            and source.read(at, len(header)) == header
            and source.read(end, len(descriptor)) == descriptor
        )
        if not holds:
            raise StructureError(f"the header of record {record.name} is damaged")
        at = end + len(descriptor)
    directory = b"".join(map(structures.central_entry, records))
    expected = directory + structures.end_records(len(records), len(directory), at)
    if at != directory_offset or source.read(at, len(expected) + 1) != expected:
        raise StructureError("the zip directory is damaged")


def check_as_torchs(
    source: Source, records: list[Record], entries: dict[str, bytes], directory_offset: int
) -> None:
    """Compares what no CRC covers with what torch writes.

    Other tools and other versions of torch may write it otherwise, but then all of it: where most of a kind
    is as torch writes it, all must be. Records of zip64 are left out: torch heads some in a way of its own.
    """
    headers, descriptors = [], []
    at = 0
    small = [record for record in records if not record.is_zip64]
    for record in small:
        header = structures.local_header(record.name, record.size, record.header_offset)
        descriptor = structures.descriptor(record)
        end = record.header_offset + len(header) + record.size
        headers.append(record.header_offset == at and source.read(at, len(header)) == header)
        descriptors.append(source.read(end, len(descriptor)) == descriptor)
        at = end + len(descriptor)
    in_directory = [entries[record.name] == structures.central_entry(record) for record in small]
    for kind in (headers, descriptors, in_directory):
        if len(kind) / 2 < sum(kind) < len(kind):
            raise StructureError(f"the header of record {small[kind.index(False)].name} is damaged")
    if len(small) == len(records) and all(headers) and all(in_directory):
        size = sum(map(len, entries.values()))
        ends = [
            structures.end_records(len(records), size, directory_offset, always_zip64=always)
            for always in (True, False)
        ]
        found = source.read(directory_offset + size, TAIL)
        # The versions in a zip64 end record, which are the writer's own.
        if found not in ends and found[:12] + found[16:] not in [one[:12] + one[16:] for one in ends]:
            raise StructureError("the end of the zip directory is damaged")
