"""The `.metadata` of a plan, written opcode by opcode as torch's pickler might.

A run of a thousand ranks has millions of chunks, of which arrays are made in a second, and objects of torch's
classes in a minute. What reads it gets torch's own objects, or arrays again (`formats.layouts.dcp.columns`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from marlin_ckpt.distributed.flat import Path
from marlin_ckpt.distributed.planning.assigning import Rows, World, mixed
from marlin_ckpt.distributed.planning.laying_out import Layout, shard_name
from marlin_ckpt.formats.layouts.dcp.columns import forms, vocabulary
from marlin_ckpt.formats.layouts.dcp.columns.vocabulary import kept, known, text


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
        self._texts = {name: number for number, name in enumerate(names, vocabulary.FIRST)}
        dtypes = dict.fromkeys(one.dtype for one in world.entries)
        self._next = vocabulary.FIRST + len(names)  # number that nothing is kept under
        self._properties = {dtype: number for number, dtype in enumerate(dtypes, self._next)}
        self._next += len(dtypes)
        dimensions = np.array([len(one.shape) for one in world.entries], np.int64)
        self._groups = {
            int(one): _Group(np.flatnonzero(dimensions[world.rows.entry] == one)) for one in set(dimensions)
        }
        self._offsets, self._sizes = (np.zeros(len(world.rows.rank), np.int64) for _ in range(2))

    def parts(self) -> Iterator[bytes]:
        """The pickle, piece by piece."""
        yield vocabulary.START
        yield from self._once()
        yield vocabulary.METADATA
        for group in self._groups.values():
            self._describe(group)
        for name in self._paths:
            yield known(self._texts[name])
            number = self._numbers.get(self._world.ties.get(name, name))
            if number is None:
                yield vocabulary.VALUE
            else:
                yield from self._tensor(number)
        yield vocabulary.PATHS
        for name, path in self._paths.items():
            yield known(self._texts[name]) + b"(" + b"".join(map(_part, path)) + b"t"
        yield vocabulary.PLACES
        for group in self._groups.values():
            yield from self._stored(group)
        yield from self._stored_values()
        yield vocabulary.END

    def _once(self) -> Iterator[bytes]:
        """Has the pickle keep what it has many times."""
        for name, number in self._texts.items():
            yield text(name) + kept(number)
        before, behind = vocabulary.PROPERTIES
        for dtype, number in self._properties.items():
            yield before + dtype.encode() + behind + kept(number)
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
        columns = {str(number): every[first, number] for number in range(dimensions)}
        columns["number"] = np.arange(self._next, self._next + len(first))
        self._next += len(first)
        return forms.write(vocabulary.sizes(dimensions), columns, len(first)).tobytes()

    def _describe(self, group: _Group) -> None:
        columns = {"offsets": self._offsets[group.rows], "sizes": self._sizes[group.rows]}
        group.chunks = forms.write(vocabulary.CHUNK, columns, len(group.rows))
        count = len(self._world.entries)
        group.counts = np.bincount(self._world.rows.entry[group.rows], minlength=count)
        group.starts = group.counts.cumsum() - group.counts

    def _tensor(self, number: int) -> Iterator[bytes]:
        entry = self._world.entries[number]
        group = self._groups[len(entry.shape)]
        start, count = group.starts[number], group.counts[number]
        properties, shape = vocabulary.TENSOR
        yield properties + self._properties[entry.dtype].to_bytes(4, "little") + shape
        yield b"".join(vocabulary.LENGTH + size.to_bytes(8, "little") for size in entry.shape)
        before, behind = vocabulary.CHUNKS
        yield before
        yield group.chunks[start : start + count].tobytes()
        yield behind

    def _stored(self, group: _Group) -> Iterator[bytes]:
        """The places of all tensors of a group, and those of the names that are tied to them."""
        rows = _cut(self._world.rows, group.rows)
        index = np.arange(len(group.rows)) - group.starts[rows.entry]
        ties: dict[int, list[str]] = {}
        for name, first in self._world.ties.items():
            ties.setdefault(self._numbers[first], []).append(name)
        names = np.array([self._texts[one.name] for one in self._world.entries], np.int64)
        tied = np.isin(rows.entry, list(ties))
        yield self._places(rows, names[rows.entry], index, group.rows)
        for number in np.flatnonzero(tied).tolist():
            for name in ties[int(rows.entry[number])]:
                one = slice(number, number + 1)
                yield self._places(
                    _cut(rows, one), np.array([self._texts[name]]), index[one], group.rows[one]
                )

    def _places(self, rows: Rows, names: np.ndarray, index: np.ndarray, at: np.ndarray) -> bytes:
        columns = {"name": names, "offsets": self._offsets[at], "index": index}
        columns |= self._info(rows.rank, self._layout.starts[at], self._layout.lengths[at])
        return forms.write(vocabulary.PIECE, columns, len(at)).tobytes()

    def _stored_values(self) -> Iterator[bytes]:
        for name, place in self._layout.values.items():
            columns = self._info(*(np.array([one]) for one in place))
            columns["name"] = np.array([self._texts[name]])
            yield forms.write(vocabulary.PLACE, columns, 1).tobytes()

    def _info(self, rank: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        return {"file": self._texts[shard_name(0)] + rank, "start": starts, "size": lengths}


class _Group:
    """The chunks of all tensors of some number of dimensions, whose records are of one length."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.chunks = self.counts = self.starts = rows


def _cut(rows: Rows, at: slice | np.ndarray) -> Rows:
    return Rows(*(column[at] for column in rows))


def _part(part: str | int) -> bytes:
    return text(part) if isinstance(part, str) else b"J" + part.to_bytes(4, "little")
