"""Reads a container without torch and without unpickling anything."""

import operator
from collections.abc import Callable, Iterable
from typing import TypeVar

from marlin_ckpt.errors import CorruptCheckpointError, NotACheckpointError, UnsafeCheckpointError
from marlin_ckpt.formats import manifest
from marlin_ckpt.formats.budget import ExcessError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.zip import canonical, structures
from marlin_ckpt.formats.zip.container import Container
from marlin_ckpt.formats.zip.directory import (
    Directory,
    StructureError,
    check_places,
    find_record,
    read_directory,
    read_header,
)
from marlin_ckpt.formats.zip.records import read_record
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

# What deflated records may inflate to: so much, and so many times the file's length. Weights hardly shrink at
# all, zeros to a thousandth.
_FREE_BYTES = 200_000_000
_MOST_TIMES = 8
_TORCH_SCRIPT = "constants.pkl"  # the label of a record that only TorchScript archives have

_T = TypeVar("_T")


def read_container(source: Source, *, every_header: bool = True) -> Container:
    """Reads and checks the structure of a zip: the directory, the headers, the places of all records.

    Args:
        source: the file.
        every_header: read the local headers of all records, not only that of the manifest. A list of
            thousands of files asks for no more than the directory: each header would take a call.

    Raises:
        CorruptCheckpointError: the structure does not hold; the file is truncated or damaged.
        NotACheckpointError: it is no zip of a kind that torch writes.
        UnsafeCheckpointError: its records would inflate to far more than the file's length.
        UnknownFormatError: a newer marlin-ckpt wrote it.
        ExcessError: its manifest would take more memory than any that this tool wrote.
    """
    try:
        directory = read_directory(source)
        _refuse_inflation(source, directory)
        own = _labelled(directory, manifest.NAME)
        is_checkpoint = _has_pickle(directory)
        if every_header and is_checkpoint and own:
            whole = _read_as_written(source, directory, own[0])
            if whole is not None:
                return whole
        # A damaged name must not make a checkpoint something else.
        wanted = own if is_checkpoint and not every_header else directory.records
        data_offsets = _check_headers(source, wanted, directory)
        if not is_checkpoint:
            raise _foreign(source, directory)
        container = Container(source.path, directory.records, data_offsets)
        found = _read_manifest(source, container, own[0]) if own else None
        is_as_written = not every_header or canonical.is_as_written(
            source, directory, data_offsets, has_manifest=found is not None
        )
        repacked = _how_repacked(directory, is_as_written=is_as_written)
        return container._replace(manifest=found, repacked=repacked)
    except StructureError as error:
        raise CorruptCheckpointError(str(error), source.path) from error


def read_alone(source: Source, label: str, most_bytes: int) -> bytes | None:
    """Reads one record of a zip, and as little of the rest as that takes.

    Args:
        source: the file.
        label: the record's name inside the archive.
        most_bytes: how long it may be.

    Returns:
        its data; None where there is no such record.

    Raises:
        CorruptCheckpointError: its CRC does not hold, or what says where it is does not.
        UnsafeCheckpointError: it is longer than that.
    """
    try:
        record = find_record(source, label)
        if record is None:
            return None
        if record.size > most_bytes:
            raise ExcessError(f"refused as too large: {label} has {record.size:,} bytes", source.path)
        header = read_header(source, record.header_offset)
    except StructureError as error:
        raise CorruptCheckpointError(str(error), source.path) from error
    if header is None or header.name != record.name.encode():
        raise CorruptCheckpointError(f"the header of record {record.name} is damaged", source.path)
    return read_record(source, Container(source.path, (record,), {record.name: header.data_offset}), record)


def read_own(source: Source, label: str, most_bytes: int, parse: Callable[[bytes, str], _T]) -> _T | None:
    """Reads one of our own records of a zip, as `read_alone`.

    Args:
        source: the file.
        label: the record's name inside the archive.
        most_bytes: how long it may be.
        parse: makes of its bytes what it says; the second argument is the file, for messages.

    Returns:
        what `parse` returns; None where there is no such record.

    Raises:
        CorruptCheckpointError: the file is damaged, as far as it was read, or `parse` raised a ValueError.
        UnsafeCheckpointError: the record is longer than that, or `parse` refused it.
    """
    data = read_alone(source, label, most_bytes)
    try:
        return None if data is None else parse(data, source.path)
    except ValueError as error:
        raise CorruptCheckpointError(str(error), source.path) from error


def read_saved(source: Source) -> Container:
    """Reads the container of a state; raises as `read_container`, also for a TorchScript archive."""
    container = read_container(source)
    if is_torch_script(container):
        what = "not a checkpoint but a TorchScript archive"
        hint = "torch.jit.load reads it, and runs its code; `marlin-ckpt export` takes its weights out"
        raise NotACheckpointError(what, source.path, hint)
    return container


def is_torch_script(container: Container) -> bool:
    """Whether it is what `torch.jit.save` writes."""
    return _TORCH_SCRIPT in container.by_label


def _has_pickle(directory: Directory) -> bool:
    return any(record.label == "data.pkl" for record in directory.records)


def _labelled(directory: Directory, label: str) -> list[Record]:
    """The records of this label, of which each archive in the file may have one."""
    ends = (one for one in directory.records if one.name.endswith(label))  # which nearly none does
    return [one for one in ends if one.label == label]


def ends_as_a_checkpoint(source: Source) -> bool:
    """Whether a file that does not start as a zip ends as one that holds a checkpoint."""
    try:
        return _has_pickle(read_directory(source))
    except StructureError:
        return False


def _foreign(source: Source, directory: Directory) -> NotACheckpointError:
    names = [record.name for record in directory.records]
    if names and all(name.endswith(".npy") for name in names):
        return NotACheckpointError("not a checkpoint but a NumPy archive", source.path, "numpy.load reads it")
    hint = "`unzip -l FILE` lists what is in it: a checkpoint may be"
    return NotACheckpointError("not a checkpoint but a zip of something else", source.path, hint)


def _refuse_inflation(source: Source, directory: Directory) -> None:
    size = sum(record.size for record in directory.records if record.deflated_bytes is not None)
    if size > _FREE_BYTES + _MOST_TIMES * source.size_bytes:
        what = f"refused: its records inflate to {size:,} bytes, from the {source.size_bytes:,} of the file"
        raise UnsafeCheckpointError(what, source.path)


def _read_as_written(source: Source, directory: Directory, own: Record) -> Container | None:
    """A container that is to the byte as marlin-ckpt lays it out, so that no header is read to find the data.

    In a store each of these reads is a request.

    Args:
        source: the file.
        directory: its directory.
        own: the record of the manifest.

    Returns:
        None where it is not: another tool has packed it, or it is damaged.

    Raises:
        StorageError: it cannot be read.
        UnknownFormatError: a newer marlin-ckpt wrote it.
    """
    header_bytes, alignment = structures.local_header_bytes, structures.alignment_of(directory.records)
    offsets = {
        one.name: one.header_offset
        + header_bytes(len(one.name.encode()), one.size, one.header_offset, alignment)
        for one in directory.records
    }
    container = Container(source.path, directory.records, offsets)
    try:
        found = _read_manifest(source, container, own)
        if not canonical.is_as_written(source, directory, offsets, has_manifest=True):
            return None
    except (StructureError, CorruptCheckpointError, UnsafeCheckpointError):
        return None
    return container._replace(manifest=found, repacked=_how_repacked(directory, is_as_written=True))


def _check_headers(source: Source, records: Iterable[Record], directory: Directory) -> dict[str, int]:
    """Compares local headers with the directory, and finds where the data starts."""
    offsets: dict[str, int] = {}
    for record in records:
        header = read_header(source, record.header_offset)
        if header is None or header.name != record.name.encode():
            raise StructureError(f"the header of record {record.name} is damaged")
        # CRC and sizes are zero where a descriptor tells them, and at their limit where a zip64 field does.
        agrees = (
            header.crc32 in (0, record.crc32)
            and header.stored_bytes in (0, record.stored_bytes, structures.UINT32_MAX)
            and header.size in (0, record.size, structures.UINT32_MAX)
        )
        if not agrees or header.how != directory.entries[record.name][8:16]:
            raise StructureError(f"the header of record {record.name} and the zip directory differ")
        offsets[record.name] = header.data_offset
    check_places(((record, offsets[record.name]) for record in records), directory.offset)
    return offsets


def _read_manifest(source: Source, container: Container, record: Record) -> Manifest:
    if record.size > manifest.most_bytes([one.name for one in container.records]):
        raise ExcessError(f"refused as too large: its manifest has {record.size} bytes", source.path)
    data = read_record(source, container, record)
    try:
        found = Manifest.from_json(data, source.path)
        listed = [*map(operator.itemgetter("name", "size", "crc32"), found.records)]
        written = [one[:3] for one in container.records if one is not record]
        # In any order: a tool that packs the file anew goes by its own.
        is_listed = listed == written or (len(listed) == len(written) and set(listed) == set(written))
    except (KeyError, TypeError, ValueError) as error:
        raise StructureError(f"the manifest does not hold: {error}") from error
    kinds = {*map(type, map(operator.itemgetter(1), listed)), *map(type, map(operator.itemgetter(2), listed))}
    if not is_listed or not kinds <= {int}:  # 1.0 equals 1
        raise StructureError("the records are not those that the manifest lists")
    return found


def _how_repacked(directory: Directory, *, is_as_written: bool) -> str:
    """How a container differs from those of marlin-ckpt and `torch.save`; "" where it does not."""
    deflated = sum(record.deflated_bytes is not None for record in directory.records)
    reasons = {
        f"{deflated} of its {len(directory.records)} records are deflated": bool(deflated),
        "it has entries for folders": directory.has_folders,
        "it is a TorchScript archive": bool(_labelled(directory, _TORCH_SCRIPT)),
        "another tool packed it": not is_as_written,
    }
    return ", ".join(reason for reason, holds in reasons.items() if holds)
