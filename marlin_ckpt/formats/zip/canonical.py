"""What no checksum of a container covers: is it what the writer of its records would write there?"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.directory import TAIL, Directory, StructureError
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source, read_each

_END64_VERSIONS = slice(12, 16)  # of the zip64 end record; those of torch's writer have changed


class _Gap(NamedTuple):
    """What lies before the data of a record, and its entry in the directory, as a writer writes them.

    Attributes:
        record: the record.
        offset: where the data of the record before it ends.
        before: the descriptor of that record.
        header: of this one.
        entry: of this one.
    """

    record: Record
    offset: int
    before: bytes
    header: bytes
    entry: bytes

    def place(self) -> tuple[int, int]:
        """Where it begins, and how long it is."""
        return self.offset, len(self.before) + len(self.header)


def is_as_written(
    source: Source, directory: Directory, data_offsets: dict[str, int], *, has_manifest: bool
) -> bool:
    """Lays the container out anew, as its writer would, and compares all that is not a record's data.

    The writer is known by facts that no flipped bit makes or unmakes: ours adds a manifest, torch's a zip64
    end record even where none is needed, and both pad their headers in a way that no other tool does.

    Args:
        source: the file.
        directory: its directory.
        data_offsets: where each record's data starts, by its name.
        has_manifest: whether a manifest is in it, whose checksum and list of records hold.

    Returns:
        whether everything is as marlin-ckpt or torch writes it; if not, another tool packed the records.

    Raises:
        StructureError: one of them wrote it, and some of it has changed since.
    """
    faults = []
    for is_torchs in [False] if has_manifest else [True, False]:
        fault, is_padded = _compare(source, directory, data_offsets, is_torchs=is_torchs)
        if not fault:
            return True
        if is_padded and (has_manifest or directory.has_zip64_end):
            faults.append(fault)
    if faults:
        raise StructureError(faults[0])
    return False


def _compare(
    source: Source, directory: Directory, data_offsets: dict[str, int], *, is_torchs: bool
) -> tuple[str, bool]:
    """What is not in a writer's form, "" where all is, and whether any local header is."""
    fault = ""
    is_padded = False
    for gap, data in read_each(source, _gaps(directory, data_offsets, is_torchs=is_torchs), _Gap.place):
        record = gap.record
        is_padded = is_padded or data[len(gap.before) :] == gap.header
        is_right = data == gap.before + gap.header and record.header_offset == gap.offset + len(gap.before)
        if not is_right or directory.entries[record.name] != gap.entry:
            fault = fault or f"the header of record {record.name} is damaged"
    size = directory.end_offset - directory.offset
    ends = [
        structures.end_records(len(directory.records), size, directory.offset, always_zip64=always)
        for always in {is_torchs, False}
    ]
    end = source.read(directory.end_offset, TAIL)
    if is_torchs:
        end, *ends = map(_unversioned, (end, *ends))
    last = directory.records[-1]  # there is one: the pickle
    before, at = structures.descriptor(last), data_offsets[last.name] + last.stored_bytes
    is_right = source.read(at, len(before)) == before and directory.offset == at + len(before)
    is_in_order = [*directory.entries] == [record.name for record in directory.records]
    if not is_right or not is_in_order or end not in ends:
        fault = fault or "the end of the zip directory is damaged"
    return fault, is_padded


def _gaps(directory: Directory, data_offsets: dict[str, int], *, is_torchs: bool) -> Iterator[_Gap]:
    """What a writer puts before the data of each record."""
    before, at = b"", 0
    alignment = structures.alignment_of(directory.records)
    for record in directory.records:
        start = data_offsets[record.name]
        if is_torchs:
            header, entry = _torchs_header(record, start), _torchs_entry(record)
        else:
            # From where it should begin: from where a hostile file says, it might have no padding that fits.
            end, named = at + len(before), len(record.name.encode())
            offset = structures.header_offset(named, record.size, end, alignment)
            before += bytes(offset - end)
            header = structures.local_header(record.name, record.size, offset, alignment)
            entry = structures.central_entry(record)
        yield _Gap(record, at, before, header, entry)
        before, at = structures.descriptor(record), start + record.stored_bytes


def _unversioned(end: bytes) -> bytes:
    if len(end) == structures.END.size:
        return end
    return end[: _END64_VERSIONS.start] + end[_END64_VERSIONS.stop :]


def _torchs_header(record: Record, data_offset: int) -> bytes:
    """As `mz_zip_writer_add_mem_ex_v2` writes it: without sizes, but for the one of large data."""
    encoded = record.name.encode()
    extra = structures.zip64_extra((record.size, 0), record.header_offset)
    start = record.header_offset + structures.LOCAL_HEADER.size + len(encoded) + len(extra) + 4
    # What the data is aligned to is an option of torch.save, and other callers of its writer note it nowhere.
    extra += structures.padding(max(0, data_offset - start))
    version, method = _torchs_version(record)
    fixed = structures.LOCAL_HEADER.pack(
        structures.LOCAL_SIGNATURE, version, structures.flags(record.size), method,
        0, 0, 0, 0, 0, len(encoded), len(extra),
    )  # fmt: skip
    return fixed + encoded + extra


def _torchs_entry(record: Record) -> bytes:
    entry = structures.central_entry(record)
    version, _ = _torchs_version(record)
    return (
        entry if not version and not record.is_zip64 else entry[:6] + struct.pack("<H", version) + entry[8:]
    )


def _torchs_version(record: Record) -> tuple[int, int]:
    """The version that is needed to read a record, which for zip64 miniz leaves at 0, and its method."""
    return (0, structures.STORED) if record.deflated_bytes is None else (20, structures.DEFLATED)
