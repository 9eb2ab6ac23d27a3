"""Whether a file is intact: every byte accounted for, every checksum holding. Without torch."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from isal import isal_zlib

from marlin_ckpt.archive import reader
from marlin_ckpt.archive.layout import Record
from marlin_ckpt.archive.reader import Container
from marlin_ckpt.archive.skeleton import tensor_names
from marlin_ckpt.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    NotACheckpointError,
    StorageError,
)
from marlin_ckpt.storage.local import open_regular

_PIECE = 256 << 10  # fits the second-level cache, where the CRC costs least
_TASK = 16 << 20  # bytes that a thread takes at once
_THREADS = min(4, os.cpu_count() or 1)
_LARGEST_HEADER = 100 << 20  # of a safetensors file, by its specification
_LARGEST_PICKLE = 64 << 20  # that is walked for the names of damaged tensors

# What verify looks for in a directory.
EXTENSIONS = ("bin", "ckpt", "pt", "pth", "safetensors")

OnBytes = Callable[[int], None]


class Status(StrEnum):
    """What can be said of a file."""

    INTACT = "intact"
    CORRUPT = "corrupt"
    UNVERIFIABLE = "unverifiable"
    NOT_A_CHECKPOINT = "not a checkpoint"


@dataclass(frozen=True)
class Verdict:
    """What was found out about one file.

    Attributes:
        path: the file.
        status: the verdict.
        reason: where it is corrupt, why it is unverifiable, what it is instead; "" where it is intact.
        tensors: the names of the tensors whose bytes are damaged, as far as the file still tells.
        size_bytes: its length.
    """

    path: str
    status: Status
    reason: str = ""
    tensors: tuple[str, ...] = ()
    size_bytes: int = 0


def verify(path: str, on_bytes: OnBytes = lambda _: None) -> Verdict:
    """Reads a whole file and compares it with all that it says of itself.

    Args:
        path: the file.
        on_bytes: told, from several threads, how many more bytes have been read.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    try:
        fd = open_regular(path)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError("no such file", path) from error
    except OSError as error:
        raise StorageError.of("cannot read", path, error) from error
    try:
        size = os.fstat(fd).st_size
        try:
            reason = _why_unverifiable(fd, path, on_bytes)
        except CorruptCheckpointError as error:
            return Verdict(path, Status.CORRUPT, error.what, error.tensors, size)
        except NotACheckpointError as error:
            return Verdict(path, Status.NOT_A_CHECKPOINT, error.what, (), size)
        return Verdict(path, Status.UNVERIFIABLE if reason else Status.INTACT, reason, (), size)
    except OSError as error:
        raise StorageError.of("cannot read", path, error) from error
    finally:
        os.close(fd)


def newest_intact(paths: Iterable[str], on_skip: Callable[[Verdict], None] = lambda _: None) -> str:
    """The first of some files, newest first, that verifies.

    Args:
        paths: the files; one that has vanished is passed over.
        on_skip: told of each that does not.

    Returns:
        its path, or "" where none does. A file without checksums does not: nothing says that it is whole.
    """
    for path in paths:
        try:
            verdict = verify(path)
        except CheckpointNotFoundError:
            continue
        if verdict.status is Status.INTACT:
            return path
        on_skip(verdict)
    return ""


def _why_unverifiable(fd: int, path: str, on_bytes: OnBytes) -> str:
    """Checks what there is to check.

    Returns:
        why nothing more can be said of a file that is not known to be bad; "" where everything holds.

    Raises:
        BadFileError: it is bad.
    """
    kind = reader.what_it_is(fd)
    if kind == "legacy":
        return "a legacy torch file, which has no checksums: it cannot be verified"
    if kind == "a safetensors file":
        _check_safetensors(fd, path)
        return "the structure holds; safetensors files have no checksums"
    container = reader.read_container(fd, path)
    if not reader.has_checksums(container):
        return "saved without checksums"
    check_records(fd, container, on_bytes)
    return ""


def check_records(fd: int, container: Container, on_bytes: OnBytes = lambda _: None) -> None:
    """Reads every byte of every record and compares its CRC32 with the directory's.

    Raises:
        CorruptCheckpointError: some differ; it names the records and their tensors.
        OSError: the file cannot be read.
    """
    # No mapping: a file that is truncated under one kills the process with SIGBUS.
    found: dict[str, int] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        tasks = [pool.submit(_crcs, fd, container.path, task, on_bytes) for task in _tasks(container)]
        for task in tasks:
            for name, size, crc32 in task.result():
                found[name] = isal_zlib.crc32_combine(found[name], crc32, size) if name in found else crc32
    bad = [record for record in container.records if found.get(record.name, 0) != record.crc32]
    if bad:
        raise _corrupt(fd, container, bad)


def _tasks(container: Container) -> Iterator[list[tuple[str, int, int]]]:
    """Cuts the records into parts (name, offset, size) and gathers them into tasks of about equal size."""
    task: list[tuple[str, int, int]] = []
    room = _TASK
    for record in container.records:
        at = container.data_offsets[record.name]
        end = at + record.size
        while at < end:
            size = min(room, end - at)
            task.append((record.name, at, size))
            at += size
            room -= size
            if not room:
                yield task
                task, room = [], _TASK
    yield task


def _crcs(
    fd: int, path: str, task: list[tuple[str, int, int]], on_bytes: OnBytes
) -> list[tuple[str, int, int]]:
    buffer = memoryview(bytearray(_PIECE))
    crcs = []
    for name, offset, size in task:
        crc32 = done = 0
        while done < size:
            read = os.preadv(fd, [buffer[: min(_PIECE, size - done)]], offset + done)
            if not read:
                raise CorruptCheckpointError("truncated while it was read", path)
            crc32 = isal_zlib.crc32(buffer[:read], crc32)
            done += read
        on_bytes(size)
        crcs.append((name, size, crc32))
    return crcs


def _corrupt(fd: int, container: Container, bad: list[Record]) -> CorruptCheckpointError:
    names: dict[str, list[str]] = {}
    damaged = {record.name for record in bad}
    pickle = next(one for one in container.records if one.name.endswith("/data.pkl"))
    if pickle.name not in damaged and pickle.size <= _LARGEST_PICKLE:
        names = tensor_names(os.pread(fd, pickle.size, container.data_offsets[pickle.name]))
    tensors = tuple(name for record in bad for name in names.get(record.name.rpartition("/")[2], []))
    records = ", ".join(record.name for record in bad[:3]) + (", ..." if len(bad) > 3 else "")  # noqa: PLR2004
    what = f"corrupt: the CRC of record {records} does not hold"
    if tensors:
        what += f" (tensor {', '.join(tensors[:3])}{', ...' if len(tensors) > 3 else ''})"  # noqa: PLR2004
    return CorruptCheckpointError(what, container.path, tensors=tensors)


def _check_safetensors(fd: int, path: str) -> None:
    """Checks the structure that the format's specification demands: header, offsets without holes, length.

    Source: the section "Format" of the safetensors README.
    """
    size = os.fstat(fd).st_size
    (length,) = struct.unpack("<Q", os.pread(fd, 8, 0))
    if not 2 <= length <= min(_LARGEST_HEADER, size - 8):  # noqa: PLR2004 - of "{}"
        raise CorruptCheckpointError("truncated: the safetensors header does not fit the file", path)
    try:
        header = json.loads(os.pread(fd, length, 8))
        spans = sorted(_span(value) for name, value in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError("the safetensors header is damaged", path) from error
    end = 0
    for start, stop in spans:
        if start != end or stop < start:
            raise CorruptCheckpointError("the safetensors offsets overlap or leave a hole", path)
        end = stop
    if 8 + length + end != size:
        raise CorruptCheckpointError(
            "truncated or too long: the safetensors data does not fit the file", path
        )


def _span(value: Any) -> tuple[int, int]:
    start, stop = value["data_offsets"]
    return int(start), int(stop)
