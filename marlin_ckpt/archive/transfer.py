"""Moves the data of records from a file into memory, in parallel, checking every CRC in the same pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from isal import isal_zlib

from marlin_ckpt.archive import reader
from marlin_ckpt.archive.layout import Record
from marlin_ckpt.archive.reader import Container
from marlin_ckpt.archive.skeleton import tensor_names
from marlin_ckpt.errors import CorruptCheckpointError

_PIECE_BYTES = 512 << 10  # fits the second-level cache, where the CRC costs least
_TASK_BYTES = 16 << 20  # that a thread takes at once
_THREADS = 4  # a disk reads faster when it has more to read; more cores than that add nothing
_LARGEST_PICKLE_BYTES = 64 << 20  # that is walked for the names of damaged tensors

OnBytes = Callable[[int], None]
_Part = tuple[str, int, int, int]  # a record's name, where in it, where in the file, how many bytes


def read_records(
    fd: int,
    container: Container,
    places: Mapping[str, memoryview] | None = None,
    on_bytes: OnBytes = lambda _: None,
) -> None:
    """Reads every byte of every record and compares its CRC32 with the directory's, where there are CRCs.

    Args:
        fd: the open file.
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
            pool.submit(_read_task, fd, container.path, task, places or {}, on_bytes)
            for task in _tasks(container)
        ]
        for task in tasks:
            for name, size, crc32 in task.result():
                found[name] = isal_zlib.crc32_combine(found[name], crc32, size) if name in found else crc32
    bad = [record for record in container.records if found.get(record.name, 0) != record.crc32]
    if bad and reader.has_checksums(container):
        raise _corrupt(fd, container, bad)


def read_record(fd: int, container: Container, record: Record) -> bytes:
    """Reads one record whole.

    Raises:
        CorruptCheckpointError: its CRC does not hold.
        OSError: the file cannot be read.
    """
    data = bytearray(record.size)
    ((_, _, crc32),) = _read_task(
        fd,
        container.path,
        [(record.name, 0, container.data_offsets[record.name], record.size)],
        {record.name: memoryview(data)},
        lambda _: None,
    )
    if crc32 != record.crc32 and reader.has_checksums(container):
        raise _corrupt(fd, container, [record])
    return bytes(data)


def _tasks(container: Container) -> Iterator[list[_Part]]:
    """Cuts the records into parts and gathers them into tasks of about equal size."""
    task: list[_Part] = []
    room = _TASK_BYTES
    for record in container.records:
        start = container.data_offsets[record.name]
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
    fd: int, path: str, task: list[_Part], places: Mapping[str, memoryview], on_bytes: OnBytes
) -> list[tuple[str, int, int]]:
    scratch = memoryview(bytearray(_PIECE_BYTES))
    crcs = []
    for name, start, offset, size in task:
        place = places.get(name)
        crc32 = done = 0
        while done < size:
            length = min(_PIECE_BYTES, size - done)
            piece = scratch[:length] if place is None else place[start + done : start + done + length]
            read = os.preadv(fd, [piece], offset + done)
            if not read:
                raise CorruptCheckpointError("truncated while it was read", path)
            crc32 = isal_zlib.crc32(piece[:read], crc32)
            done += read
        on_bytes(size)
        crcs.append((name, size, crc32))
    return crcs


def _corrupt(fd: int, container: Container, bad: list[Record]) -> CorruptCheckpointError:
    names: dict[str, list[str]] = {}
    damaged = {record.name for record in bad}
    pickle = next(one for one in container.records if one.name.endswith("/data.pkl"))
    if pickle.name not in damaged and pickle.size <= _LARGEST_PICKLE_BYTES:
        names = tensor_names(os.pread(fd, pickle.size, container.data_offsets[pickle.name]))
    tensors = tuple(name for record in bad for name in names.get(record.name.rpartition("/")[2], []))
    records = ", ".join(record.name for record in bad[:3]) + (", ..." if len(bad) > 3 else "")  # noqa: PLR2004
    what = f"the CRC of record {records} does not hold"
    if tensors:
        what += f" (tensor {', '.join(tensors[:3])}{', ...' if len(tensors) > 3 else ''})"  # noqa: PLR2004
    return CorruptCheckpointError(what, container.path, tensors=tensors)
