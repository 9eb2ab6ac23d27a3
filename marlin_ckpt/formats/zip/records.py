"""Reads the data of records, in parallel, and compares their checksums in the same pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from isal import isal_zlib

from marlin_ckpt.errors import BadFileError, CorruptCheckpointError
from marlin_ckpt.formats.budget import LARGEST_PICKLE
from marlin_ckpt.formats.zip.container import Container
from marlin_ckpt.formats.zip.inflation import InflationError, inflated
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source, stretch
from marlin_ckpt.storage.threads import in_order

_PIECE_BYTES = 512 << 10  # fits the second-level cache, where the CRC costs least
_TASK_BYTES = 32 << 20  # that a thread takes at once: of 16 MiB it begins twice as often, 64 MiB end unevenly
_MOST_NAMED = 3
_LONGEST = 100  # characters of a name that a pickle makes up

OnBytes = Callable[[int], None]


class _Part(NamedTuple):
    """A stretch of a record's data; of deflated data, all of it.

    Attributes:
        record: whose data it is.
        start: where in the record's data it starts.
        offset: where in the file.
        size: of the data in bytes.
    """

    record: Record
    start: int
    offset: int
    size: int


def read_records(
    source: Source,
    container: Container,
    places: Mapping[str, memoryview] | None = None,
    on_bytes: OnBytes = lambda _: None,
    records: Sequence[Record] | None = None,
) -> None:
    """Reads every byte of records and compares their CRC32s with the directory's, where there are CRCs.

    Args:
        source: the file.
        container: its structure.
        places: memory for the data of some records, by name, each exactly as long as its record; it is
            written to even if the CRC turns out not to hold. The others are read and forgotten.
        on_bytes: told, from several threads, how many more bytes have been read.
        records: some of the container's; without them all are read.

    Raises:
        CorruptCheckpointError: some CRCs differ; it names the records and their tensors.
        StorageError: the file cannot be read.
    """
    # No mapping: a file that is truncated under one kills the process with SIGBUS.
    records = container.records if records is None else records
    crcs: dict[str, int | None] = {record.name: 0 for record in records}
    places = places or {}

    def read(task: list[_Part]) -> list[tuple[_Part, int | None]]:
        forgotten = (part.size for part in task if part.record.name not in places)
        scratch = memoryview(bytearray(min(max(forgotten, default=0), _PIECE_BYTES)))
        found = []
        first, last = task[0], task[-1]
        end = last.offset + (last.record.deflated_bytes or last.size)
        with stretch(source, first.offset, end - first.offset) as near:
            for part in task:
                place = places.get(part.record.name)
                if place is not None:
                    place = place[part.start : part.start + part.size]
                found.append((part, _read_part(near, part, place, scratch)))
                on_bytes(part.size)
        return found

    for parts in in_order(read, _tasks(records, container.data_offsets)):
        for part, crc32 in parts:
            before = crcs[part.record.name]
            if part.start and before is not None and crc32 is not None:
                crc32 = isal_zlib.crc32_combine(before, crc32, part.size)  # noqa: PLW2901
            crcs[part.record.name] = crc32
    check_crcs(source, container, ((record, crcs[record.name]) for record in records))


def read_record(source: Source, container: Container, record: Record) -> bytes:
    """Reads one record whole.

    Raises:
        CorruptCheckpointError: its CRC does not hold.
        StorageError: the file cannot be read.
    """
    data = bytearray(record.size)
    read_records(source, container, {record.name: memoryview(data)}, records=[record])
    return bytes(data)


def holds(record: Record, crc32: int | None) -> bool:
    """Whether data with this CRC32 is that of a record. CRCs are compared nowhere else.

    Args:
        record: as a directory, a manifest or a data descriptor states it.
        crc32: of the data; None where deflated data cannot be inflated.
    """
    return crc32 == record.crc32


def check_crcs(source: Source, container: Container, found: Iterable[tuple[Record, int | None]]) -> None:
    """Raises the error for data that is not that of its records.

    Args:
        source: the file.
        container: its structure.
        found: records and the CRC32 of their data, as `holds` takes them.

    Raises:
        CorruptCheckpointError: some are not what the directory says, unless the file was saved without; it
            names the records and their tensors.
    """
    has_crcs = container.has_checksums
    bad = [record for record, crc32 in found if not holds(record, crc32) and (has_crcs or crc32 is None)]
    if not bad:
        return
    names = [record.name for record in bad]
    what = f"the CRC of record {_listed(names)} does not hold"
    tensors = [name for name in _tensors(source, container, names) if name]  # one that is all has none
    if tensors:
        what += f" (tensor {_listed(tensors)})"
    raise CorruptCheckpointError(what, container.path, tensors=tuple(tensors))


def check_storages(source: Source, container: Container) -> None:
    """Checks that each storage that the pickle names has a record of its length.

    A pickle that cannot be read is no matter of the container's, and nothing is said of it.

    Raises:
        CorruptCheckpointError: some have not; it names the records and their tensors.
        StorageError: the file cannot be read, or there is not enough memory to look into it.
    """
    from marlin_ckpt.formats.pickle.reader import unpickling  # noqa: PLC0415 - `list` goes without
    from marlin_ckpt.formats.pickle.storages import record_sizes, tensor_names  # noqa: PLC0415

    records = container.by_label
    if records["data.pkl"].size > LARGEST_PICKLE:
        return
    pickle = read_record(source, container, records["data.pkl"])
    try:
        with unpickling(source.path):
            sizes = {f"data/{key}": size for key, size in record_sizes(pickle).items()}
    except BadFileError:
        return
    bad = [
        name for name, size in sizes.items() if name not in records or size not in (None, records[name].size)
    ]
    if bad:
        shown = _listed([name[:_LONGEST] for name in bad])
        what = f"record {shown} is missing, or has another length than its tensors need"
        names = tensor_names(pickle)
        tensors = [name for label in bad for name in names.get(label.removeprefix("data/"), [])]
        raise CorruptCheckpointError(what, container.path, tensors=tuple(tensors))


def _tasks(records: Iterable[Record], data_offsets: Mapping[str, int]) -> Iterator[list[_Part]]:
    """Cuts the records into parts and gathers them into tasks of about equal size."""
    task: list[_Part] = []
    room = _TASK_BYTES
    for record in records:
        start = data_offsets[record.name]
        done = 0
        while done < record.size:
            size = min(room, record.size - done) if record.deflated_bytes is None else record.size
            task.append(_Part(record, done, start + done, size))
            done += size
            room -= size
            if room <= 0:
                yield task
                task, room = [], _TASK_BYTES
    if task:
        yield task


def read_at(source: Source, record: Record, start: int) -> int | None:
    """Reads the data of a record from a place that its container may not confirm.

    Args:
        source: the file.
        record: whose data it may be.
        start: where in the file.

    Returns:
        the CRC32 of the data, as `holds` takes it.
    """
    part = _Part(record, 0, start, record.size)
    return _read_part(source, part, None, memoryview(bytearray(_PIECE_BYTES)))


def _read_part(source: Source, part: _Part, place: memoryview | None, scratch: memoryview) -> int | None:
    """Reads data; returns its CRC32, or None where it cannot be inflated."""
    if part.record.deflated_bytes is not None:
        return _inflate(source, part, place)
    crc32 = 0
    for done in range(0, part.size, _PIECE_BYTES):
        length = min(_PIECE_BYTES, part.size - done)
        piece = scratch[:length] if place is None else place[done : done + length]
        if source.read_into(part.offset + done, piece) < length:
            raise CorruptCheckpointError("truncated while it was read", source.path)
        crc32 = isal_zlib.crc32(piece, crc32)
    return crc32


def _inflate(source: Source, part: _Part, place: memoryview | None) -> int | None:
    crc32 = done = 0
    try:
        for piece in inflated(source, part.offset, part.record):
            if place is not None:
                place[done : done + len(piece)] = piece
            done += len(piece)
            crc32 = isal_zlib.crc32(piece, crc32)
    except InflationError:
        return None
    return crc32


def _tensors(source: Source, container: Container, damaged: list[str]) -> list[str]:
    """The names of the tensors in damaged records, as far as the file still tells."""
    keys = [name.rpartition("/")[2] for name in damaged if "/data/" in name]
    if not keys:
        return []
    pickle = container.by_label["data.pkl"]
    if pickle.name in damaged or pickle.size > LARGEST_PICKLE:
        return []
    try:
        from marlin_ckpt.formats.pickle.storages import tensor_names  # noqa: PLC0415 - as above

        names = tensor_names(read_record(source, container, pickle))
    except CorruptCheckpointError:  # it was not looked at before, and tells nothing
        return []
    return [name for key in keys for name in names.get(key, [])]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
