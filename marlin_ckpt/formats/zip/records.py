"""Moves the data of records from a file into memory, in parallel, checking every CRC in the same pass."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from isal import isal_zlib

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.pickle.storages import tensor_names
from marlin_ckpt.formats.zip import reader
from marlin_ckpt.formats.zip.reader import Container
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

_PIECE_BYTES = 512 << 10  # fits the second-level cache, where the CRC costs least
_TASK_BYTES = 16 << 20  # that a thread takes at once
_THREADS = 4  # a disk reads faster when it has more to read; more cores than that add nothing
_LARGEST_PICKLE_BYTES = 64 << 20  # that is walked for the names of damaged tensors

OnBytes = Callable[[int], None]
_Part = tuple[str, int, int, int]  # a record's name, where in it, where in the file, how many bytes


def read_records(
    source: Source,
    container: Container,
    places: Mapping[str, memoryview] | None = None,
    on_bytes: OnBytes = lambda _: None,
) -> None:
    """Reads every byte of every record and compares its CRC32 with the directory's, where there are CRCs.

    Args:
        source: the file.
        container: its structure.
        places: memory for the data of some records, by name, each exactly as long as its record; it is
            written to even if the CRC turns out not to hold. The others are read and forgotten.
        on_bytes: told, from several threads, how many more bytes have been read.

    Raises:
        CorruptCheckpointError: some CRCs differ; it names the records and their tensors.
        OSError: the file cannot be read.
    """
    # No mapping: a file that is truncated under one kills the process with SIGBUS.
    found: dict[str, int] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        tasks = [
            pool.submit(_read_task, source, task, places or {}, on_bytes)
            for task in _tasks(container.records, container.data_offsets)
        ]
        for task in tasks:
            for name, size, crc32 in task.result():
                found[name] = isal_zlib.crc32_combine(found[name], crc32, size) if name in found else crc32
    bad = [record for record in container.records if found.get(record.name, 0) != record.crc32]
    if bad and reader.has_checksums(container):
        raise damaged(source, container, bad)


def read_record(source: Source, container: Container, record: Record) -> bytes:
    """Reads one record whole.

    Raises:
        CorruptCheckpointError: its CRC does not hold.
        OSError: the file cannot be read.
    """
    data = bytearray(record.size)
    check_record(source, container, record, memoryview(data))
    return bytes(data)


def check_record(
    source: Source, container: Container, record: Record, place: memoryview | None = None
) -> None:
    """Reads one record whole and compares its CRC32 with the directory's, where there are CRCs.

    Args:
        source: the file.
        container: its structure.
        record: one of its records.
        place: memory for the data, exactly as long; without it the data is read and forgotten.

    Raises:
        CorruptCheckpointError: the CRC does not hold; it names the record and its tensors.
        OSError: the file cannot be read.
    """
    tasks = list(_tasks([record], container.data_offsets))
    places = {} if place is None else {record.name: place}
    crc32 = 0
    with ThreadPoolExecutor(_THREADS) if len(tasks) > 1 else contextlib.nullcontext() as pool:
        read = functools.partial(_read_task, source, places=places, on_bytes=lambda _: None)
        for parts in map(read, tasks) if pool is None else pool.map(read, tasks):
            for _, size, part in parts:
                crc32 = isal_zlib.crc32_combine(crc32, part, size)
    if crc32 != record.crc32 and reader.has_checksums(container):
        raise damaged(source, container, [record])


def _tasks(records: Iterable[Record], data_offsets: Mapping[str, int]) -> Iterator[list[_Part]]:
    """Cuts the records into parts and gathers them into tasks of about equal size."""
    task: list[_Part] = []
    room = _TASK_BYTES
    for record in records:
        start = data_offsets[record.name]
        done = 0
        while done < record.size:
            size = min(room, record.size - done)
            task.append((record.name, done, start + done, size))
            done += size
            room -= size
            if not room:
                yield task
                task, room = [], _TASK_BYTES
    yield task


def _read_task(
    source: Source, task: list[_Part], places: Mapping[str, memoryview], on_bytes: OnBytes
) -> list[tuple[str, int, int]]:
    scratch = memoryview(bytearray(_PIECE_BYTES))
    crcs = []
    for name, start, offset, size in task:
        place = places.get(name)
        crc32 = done = 0
        while done < size:
            length = min(_PIECE_BYTES, size - done)
            piece = scratch[:length] if place is None else place[start + done : start + done + length]
            if source.read_into(offset + done, piece) < length:
                raise CorruptCheckpointError("truncated while it was read", source.path)
            crc32 = isal_zlib.crc32(piece, crc32)
            done += length
        on_bytes(size)
        crcs.append((name, size, crc32))
    return crcs


def damaged(source: Source, container: Container, bad: list[Record]) -> CorruptCheckpointError:
    """The error for records whose CRC does not hold; it names them and their tensors."""
    names: dict[str, list[str]] = {}
    damaged = {record.name for record in bad}
    pickle = next(one for one in container.records if one.name.endswith("/data.pkl"))
    if pickle.name not in damaged and pickle.size <= _LARGEST_PICKLE_BYTES:
        names = tensor_names(source.read(container.data_offsets[pickle.name], pickle.size))
    tensors = tuple(name for record in bad for name in names.get(record.name.rpartition("/")[2], []))
    records = ", ".join(record.name for record in bad[:3]) + (", ..." if len(bad) > 3 else "")  # noqa: PLR2004
    what = f"the CRC of record {records} does not hold"
    if tensors:
        what += f" (tensor {', '.join(tensors[:3])}{', ...' if len(tensors) > 3 else ''})"  # noqa: PLR2004
    return CorruptCheckpointError(what, container.path, tensors=tensors)
