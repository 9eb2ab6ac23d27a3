"""Fills memory with data of files: checked in one pass, by several threads, no more than is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from isal import isal_zlib

from marlin_ckpt.distributed.reads.boxes import Runs
from marlin_ckpt.distributed.reads.scattering import scatter, straight
from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.zip.records import holds
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source, stretch
from marlin_ckpt.storage.threads import in_order

_PIECE_BYTES = 512 << 10  # fits the second-level cache, where the CRC costs least
_TASK_BYTES = 16 << 20  # that a thread takes at once
_NEAR_BYTES = 64 << 10  # between two parts; to read it costs less than to ask anew
_SPARSE_SHARE = 8  # of what is read for a piece, if one part in so many is not needed


class Data(NamedTuple):
    """The elements of a piece of a tensor, as a file has them: contiguous, in row-major order.

    Attributes:
        name: of the tensor.
        source: the file.
        start: where they begin in it.
        size: how many bytes they are.
        crc32: of all of them; None where the file has none.
        blocks: of each block of them, from the first on; empty where the file has none.
        block_bytes: how long a block is.
    """

    name: str
    source: Source
    start: int
    size: int
    crc32: int | None = None
    blocks: Sequence[int] = ()
    block_bytes: int = 1

    @property
    def task_bytes(self) -> int:
        """How many bytes a thread takes at once: whole blocks."""
        return max(1, _TASK_BYTES // self.block_bytes) * self.block_bytes


class Target:
    """Memory that is filled by one or more pieces.

    Args:
        make: returns the memory, once, when the first byte of it is to be written.
        done: called once, when all of it is written; from a thread.
    """

    def __init__(self, make: Callable[[], memoryview], done: Callable[[], None] = lambda: None) -> None:
        self._make, self._done = make, done
        self._lock = threading.Lock()
        self._memory: memoryview | None = None
        self._left = 0

    @property
    def memory(self) -> memoryview:
        """The memory itself."""
        with self._lock:
            if self._memory is None:
                self._memory = self._make()
            return self._memory

    def expect(self) -> None:
        """Another piece is going to be written to it."""
        self._left += 1

    def written(self) -> None:
        """A piece of it is written and checked."""
        with self._lock:
            self._left -= 1
            is_done = not self._left
        if is_done:
            self._done()
            self._memory = None


@dataclass(slots=True)
class Fill:
    """What of a piece goes where.

    Attributes:
        data: of the piece.
        runs: of its bytes, in their order.
        target: that they go to; it expects this fill.
        is_own: whether no other rank is going to need these bytes.
    """

    data: Data
    runs: list[Runs]
    target: Target
    is_own: bool = False
    _left: int = 0
    _crcs: dict[int, tuple[int, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stretches(self) -> list[tuple[int, int]]:
        """The bytes of the piece that have to be read, from where to where, so that all used are checked."""
        if not self.data.blocks:
            return [(0, self.data.size)]
        found: list[tuple[int, int]] = []
        block = self.data.block_bytes
        for one in self.runs:
            is_dense = one.source_step <= block
            each = [(one.source, one.end)] if is_dense else [
                (start, start + one.size)
                for start in range(one.source, one.source + one.number * one.source_step, one.source_step)
            ]  # fmt: skip
            for start, end in each:
                first, last = start // block * block, min(-(-end // block) * block, self.data.size)
                if found and first <= found[-1][1]:
                    found[-1] = found[-1][0], max(last, found[-1][1])
                else:
                    found.append((first, last))
        return found

    def is_dense(self) -> bool:
        """Whether nearly all that has to be read is needed here; else it may be another rank's as well."""
        read = sum(end - start for start, end in self.stretches())
        return (read - sum(one.size * one.number for one in self.runs)) * _SPARSE_SHARE <= read

    def begin(self, parts: int) -> None:
        """Says in how many parts it is going to be read."""
        self._left = parts

    def add(self, start: int, size: int, crc32: int) -> None:
        """Takes the CRC of a part that is read; compares that of the whole with the last of them."""
        with self._lock:
            self._crcs[start] = size, crc32
            self._left -= 1
            is_done = not self._left
        if is_done:
            self._compare()
            self.target.written()

    def _compare(self) -> None:
        if self.data.blocks or self.data.crc32 is None:
            return
        whole = 0
        for start in sorted(self._crcs):
            size, crc32 = self._crcs[start]
            whole = isal_zlib.crc32_combine(whole, crc32, size)
        if not _is(self.data, self.data.crc32, whole):
            raise damaged(self.data)


class _Part(NamedTuple):
    fill: Fill
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def offset(self) -> int:
        return self.fill.data.start + self.start


def _is(data: Data, stated: int, crc32: int) -> bool:
    return holds(Record(data.name, data.size, stated, data.start), crc32)


def damaged(data: Data, where: int | None = None) -> CorruptCheckpointError:
    """The error for data whose CRC is another than its file says; `where` is where a block of it begins."""
    place = "" if where is None else f" in the block at its byte {where:,}"
    what = f"the CRC of tensor {data.name} does not hold{place}"
    return CorruptCheckpointError(what, data.source.path, tensors=(data.name,))


def fill_all(fills: Iterable[Fill]) -> None:
    """Reads what is asked for, compares its checksums, and puts it where it belongs.

    Where a checksum does not hold, what was filled is undefined.

    Raises:
        CorruptCheckpointError: a checksum does not hold, or a file has become shorter.
        StorageError: a file cannot be read.
    """
    for _ in in_order(_do, _tasks(fills)):
        pass


def fill_now(fills: Iterable[Fill]) -> None:
    """As `fill_all`, on this thread."""
    for task in _tasks(fills):
        _do(task)


def _tasks(fills: Iterable[Fill]) -> Iterator[list[_Part]]:
    """Cuts fills into parts, and gathers these into tasks of about equal size."""
    task: list[_Part] = []
    room = _TASK_BYTES
    for fill in fills:
        parts = [
            _Part(fill, start, min(start + fill.data.task_bytes, end))
            for first, end in fill.stretches()
            for start in (range(first, end, fill.data.task_bytes) or (first,))
        ]
        fill.begin(len(parts))
        for part in parts:
            task.append(part)
            room -= part.size
            if room <= 0:
                yield task
                task, room = [], _TASK_BYTES
    if task:
        yield task


def _do(task: list[_Part]) -> None:
    scratch = memoryview(
        bytearray(_PIECE_BYTES if len(task) > 1 or task[0].size > _PIECE_BYTES else task[0].size)
    )
    for group in _together(task):
        (source, is_own), start = _reader_of(group[0]), group[0].offset
        with stretch(source, start, group[-1].offset + group[-1].size - start, is_own=is_own) as near:
            for part in group:
                _read(part, near, scratch)


def _reader_of(part: _Part) -> tuple[Source, bool]:
    """What a part is read from, and whether by this rank alone."""
    return part.fill.data.source, part.fill.is_own


def _together(task: list[_Part]) -> Iterator[list[_Part]]:
    """Puts those parts together that one reader goes through in order."""
    group: list[_Part] = []
    for part in task:
        if group:
            gap = part.offset - group[-1].offset - group[-1].size
            if not (0 <= gap <= _NEAR_BYTES and _reader_of(part) == _reader_of(group[-1])):
                yield group
                group = []
        group.append(part)
    yield group


def _read(part: _Part, source: Source, scratch: memoryview) -> None:
    fill, data = part.fill, part.fill.data
    memory = fill.target.memory
    starts = [one.source for one in fill.runs]
    whole = 0
    blocks = _Blocks(data)
    for start in range(part.start, part.end, _PIECE_BYTES):
        end = min(start + _PIECE_BYTES, part.end)
        here = straight(fill.runs, starts, start, end)
        piece = scratch[: end - start] if here is None else memory[here : here + end - start]
        if source.read_into(data.start + start, piece) < len(piece):
            what = f"truncated: the file ends within tensor {data.name}"
            raise CorruptCheckpointError(what, data.source.path, tensors=(data.name,))
        if data.blocks:
            blocks.take(start, piece)
        else:
            whole = isal_zlib.crc32(piece, whole)
        if here is None:
            scatter(fill.runs, starts, start, piece, memory)
    fill.add(part.start, part.size, whole)


class _Blocks:
    """Compares the CRC of each block of data that is read from the start of a block on."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._crc32 = 0

    def take(self, start: int, piece: memoryview) -> None:
        """Takes the next bytes."""
        data, size = self._data, self._data.block_bytes
        end = start + len(piece)
        while start < end:
            number = start // size
            stop = min((number + 1) * size, end)
            self._crc32 = isal_zlib.crc32(piece[: stop - start], self._crc32)
            piece = piece[stop - start :]
            if stop == min((number + 1) * size, data.size):
                if not _is(data, data.blocks[number], self._crc32):
                    raise damaged(data, number * size)
                self._crc32 = 0
            start = stop
