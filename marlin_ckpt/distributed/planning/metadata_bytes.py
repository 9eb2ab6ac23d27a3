"""The `.metadata` of a plan, written opcode by opcode as torch's pickler might.

A run of a thousand ranks has millions of chunks, of which arrays are made in a second, and objects of torch's
classes in a minute. What reads it gets torch's own objects.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from marlin_ckpt.distributed.flat import Path
from marlin_ckpt.distributed.planning.assigning import Rows, World, mixed
from marlin_ckpt.distributed.planning.laying_out import Layout, shard_name

_VALUES = "torch.distributed.checkpoint.metadata"
_STORED = "torch.distributed.checkpoint.filesystem"
_VERSION = "1.0.0"  # CURRENT_DCP_VERSION of torch/distributed/checkpoint/filesystem.py
# The numbers under which the pickle keeps what it has once: BINGET takes one byte.
_CLASSES = ("Size", "ChunkStorageMetadata", "MetadataIndex", "_StorageInfo", "TensorStorageMetadata")
_WORDS = (
    "offsets", "sizes", "fqn", "offset", "index", "relative_path", "length", "properties", "size", "chunks",
)  # fmt: skip
_MEMO = {name: number for number, name in enumerate((*_CLASSES, *_WORDS))}
_SMALL = 2**31


def to_pickle(world: World, layout: Layout, paths: Mapping[str, Path]) -> bytes:
    """The bytes of `.metadata`: torch's `Metadata`, the same for the same plan.

    Args:
        world: who writes what.
        layout: where.
        paths: of all names, in their order.
    """
    return b"".join(_Pickle(world, layout, paths).parts())


class _Pickle:
    def __init__(self, world: World, layout: Layout, paths: Mapping[str, Path]) -> None:
        self._world = world
        self._layout = layout
        self._paths = paths
        self._numbers = {one.name: number for number, one in enumerate(world.entries)}
        names = [*paths, *map(shard_name, range(world.world_size))]
        self._memo = {name: number for number, name in enumerate(names, len(_MEMO))}
        dtypes = dict.fromkeys(one.dtype for one in world.entries)
        self._properties = {dtype: number for number, dtype in enumerate(dtypes, len(_MEMO) + len(names))}
        dimensions = np.array([len(one.shape) for one in world.entries], np.int64)
        self._groups = {
            int(one): _Group(np.flatnonzero(dimensions[world.rows.entry] == one)) for one in set(dimensions)
        }
        self._next = len(_MEMO) + len(names) + len(dtypes)
        self._offsets, self._sizes = (np.zeros(len(world.rows.rank), np.int64) for _ in range(2))

    def parts(self) -> Iterator[bytes]:
        """The pickle, piece by piece."""
        yield b"\x80\x02"
        yield from self._once()
        yield _global(_VALUES, "Metadata") + b")\x81}("
        yield _text("state_dict_metadata") + b"}("
        for group in self._groups.values():
            self._describe(group)
        for name in self._paths:
            yield self._known(name)
            number = self._numbers.get(self._world.ties.get(name, name))
            if number is None:
                yield _global(_VALUES, "BytesStorageMetadata") + b")\x81"
            else:
                yield from self._tensor(number)
        yield b"u" + _text("planner_data") + b"}("
        for name, path in self._paths.items():
            yield self._known(name) + b"(" + b"".join(map(_part, path)) + b"t"
        yield b"u" + _text("storage_data") + b"}("
        for group in self._groups.values():
            yield from self._stored(group)
        yield from self._stored_values()
        yield b"u" + _text("storage_meta") + b"N" + _text("version") + _text(_VERSION) + b"ub."

    def _once(self) -> Iterator[bytes]:
        """Has the pickle keep what it has many times."""
        homes = {"Size": "torch", "_StorageInfo": _STORED}
        for name in _CLASSES:
            yield _global(homes.get(name, _VALUES), name) + _put(_MEMO[name])
        for word in _WORDS:
            yield _text(word) + _put(_MEMO[word])
        for name, number in self._memo.items():
            yield _text(name) + _put(number)
        for dtype, number in self._properties.items():
            # TensorProperties.__getstate__: the dtype, the layout, requires_grad, the memory format, pinned.
            yield _global(_VALUES, "TensorProperties") + b")\x81(" + _global("torch", dtype)
            yield _global("torch.serialization", "_get_layout") + _text("torch.strided") + b"\x85R\x89"
            yield _global(_VALUES, "_MEM_FORMAT_ENCODING") + b"K\x00\x85R\x89tb" + _put(number)
        for dimensions, group in self._groups.items():
            yield self._sizes_once(dimensions, group.rows)

    def _sizes_once(self, dimensions: int, at: np.ndarray) -> bytes:
        """Has it keep each `torch.Size` of the chunks; most are those of many of them."""
        rows = _cut(self._world.rows, at)
        every = np.concatenate((rows.offsets[:, :dimensions], rows.sizes[:, :dimensions]))
        code = np.zeros(len(every), np.uint64)
        for number in range(dimensions):
            code = mixed(code + every[:, number].astype(np.uint64))
        _, first, which = np.unique(code, return_index=True, return_inverse=True)
        self._offsets[at], self._sizes[at] = np.split(which + self._next, 2)
        columns: list[bytes | np.ndarray] = [_get("Size") + b"("]
        for number in range(dimensions):
            columns += _number(every[first, number]).columns
        known = np.arange(self._next, self._next + len(first)).astype("<u4")
        self._next += len(first)
        return _joined(_Columns([*columns, b"t\x85Rr", known, b"0"]), count=len(first)).tobytes()

    def _known(self, name: str) -> bytes:
        return b"j" + self._memo[name].to_bytes(4, "little")

    def _describe(self, group: _Group) -> None:
        group.chunks = _joined(
            _constant(_get("ChunkStorageMetadata") + b")\x81}(" + _get("offsets")),
            _memoized(self._offsets[group.rows]),
            _constant(_get("sizes")),
            _memoized(self._sizes[group.rows]),
            _constant(b"ub"),
            count=len(group.rows),
        )
        count = len(self._world.entries)
        group.counts = np.bincount(self._world.rows.entry[group.rows], minlength=count)
        group.starts = group.counts.cumsum() - group.counts

    def _tensor(self, number: int) -> Iterator[bytes]:
        entry = self._world.entries[number]
        dimensions = len(entry.shape)
        yield _get("TensorStorageMetadata") + b")\x81}(" + _get("properties")
        yield b"j" + self._properties[entry.dtype].to_bytes(4, "little")
        shape = b"".join(b"\x8a\x08" + size.to_bytes(8, "little") for size in entry.shape)
        yield _get("size") + _get("Size") + b"(" + shape + b"t\x85R" + _get("chunks") + b"]("
        group = self._groups[dimensions]
        start, count = group.starts[number], group.counts[number]
        yield group.chunks[start : start + count].tobytes()
        yield b"eub"

    def _stored(self, group: _Group) -> Iterator[bytes]:
        """The places of all tensors of a group, and those of the names that are tied to them."""
        rows = _cut(self._world.rows, group.rows)
        index = np.arange(len(group.rows)) - group.starts[rows.entry]
        ties: dict[int, list[str]] = {}
        for name, first in self._world.ties.items():
            ties.setdefault(self._numbers[first], []).append(name)
        names = np.array([self._memo[one.name] for one in self._world.entries], np.int64)
        tied = np.isin(rows.entry, list(ties))
        yield self._places(rows, names[rows.entry], index, group.rows)
        for number in np.flatnonzero(tied).tolist():
            for name in ties[int(rows.entry[number])]:
                one = slice(number, number + 1)
                known = np.array([self._memo[name]])
                yield self._places(_cut(rows, one), known, index[one], group.rows[one])

    def _places(self, rows: Rows, names: np.ndarray, index: np.ndarray, at: np.ndarray) -> bytes:
        return _joined(
            _constant(_get("MetadataIndex") + b")\x81}(" + _get("fqn")),
            _memoized(names),
            _constant(_get("offset")),
            _memoized(self._offsets[at]),
            _constant(_get("index")),
            _number(index),
            _constant(b"ub"),
            *self._info(rows.rank, self._layout.starts[at], self._layout.lengths[at]),
            count=len(at),
        ).tobytes()

    def _stored_values(self) -> Iterator[bytes]:
        for name, place in self._layout.values.items():
            yield (
                _get("MetadataIndex") + b")\x81}(" + _get("fqn") + self._known(name) + _get("index") + b"Nub"
            )
            yield _joined(*self._info(*(np.array([one]) for one in place)), count=1).tobytes()

    def _info(self, rank: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[_Columns, ...]:
        return (
            _constant(_get("_StorageInfo") + b")\x81}(" + _get("relative_path")),
            _memoized(self._memo[shard_name(0)] + rank),
            _constant(_get("offset")),
            _number(starts),
            _constant(_get("length")),
            _number(lengths),
            _constant(b"ub"),
        )


class _Group:
    """The chunks of all tensors of some number of dimensions, whose records are of one length."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.chunks = self.counts = self.starts = rows


class _Columns(NamedTuple):
    """Bytes of each of some records: constant ones, or numbers that differ."""

    columns: list[bytes | np.ndarray]


def _joined(*parts: _Columns, count: int) -> np.ndarray:
    """The records, each with its part of every column."""
    columns = [one for part in parts for one in part.columns]
    kinds = tuple(f"V{len(one)}" if isinstance(one, bytes) else one.dtype.str for one in columns)
    records = np.empty(count, _record(kinds))
    for number, one in enumerate(columns):
        records[f"c{number}"] = np.void(one) if isinstance(one, bytes) else one
    return records


@functools.lru_cache(maxsize=256)
def _record(kinds: tuple[str, ...]) -> np.dtype[Any]:
    return np.dtype([(f"c{number}", kind) for number, kind in enumerate(kinds)])


def _memoized(numbers: np.ndarray) -> _Columns:
    return _Columns([b"j", numbers.astype("<u4")])


def _constant(data: bytes) -> _Columns:
    return _Columns([data])


def _number(values: np.ndarray) -> _Columns:
    if values.max(initial=0) < _SMALL:
        return _Columns([b"J", values.astype("<i4")])
    return _Columns([b"\x8a\x08", values.astype("<i8")])


def _cut(rows: Rows, at: slice | np.ndarray) -> Rows:
    return Rows(*(column[at] for column in rows))


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + len(data).to_bytes(4, "little") + data


def _part(part: str | int) -> bytes:
    return _text(part) if isinstance(part, str) else b"J" + part.to_bytes(4, "little")


def _put(number: int) -> bytes:
    return b"r" + number.to_bytes(4, "little") + b"0"


def _get(name: str) -> bytes:
    return b"h" + bytes([_MEMO[name]])
