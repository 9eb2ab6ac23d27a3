"""Who writes what: each chunk of each tensor once, and the bytes spread over those who have them.

Rank 0 decides it for all, by arrays: a run of a thousand ranks has millions of chunks.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from marlin_ckpt.distributed.flat import Path
from marlin_ckpt.distributed.planning.describing import ABSENT, Chunk, Entry, Own, Table
from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.values.dtypes import DTYPES

# Of chunks that several ranks have, smaller ones are the lowest rank's: they are many (an optimizer's steps),
# and spreading them would make the shards of all ranks differ.
_SPREAD_FROM_BYTES = 64 << 10
_MOST_NAMED = 3


class Rows(NamedTuple):
    """Chunks that are written, by tensor and then by rank; all arrays have one element for each.

    Attributes:
        entry: the number of its tensor in `World.entries`.
        rank: who writes it.
        offsets: where its first element is in the tensor, as many as the tensor has dimensions, then zeros.
        sizes: its sizes, then ones.
        nbytes: how many bytes it has.
    """

    entry: np.ndarray
    rank: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    nbytes: np.ndarray


class Written(NamedTuple):
    """What one rank writes, in the order of its shard.

    Attributes:
        rows: the tensors' chunks, by their numbers in `World.rows`.
        values: the names of values.
    """

    rows: np.ndarray
    values: tuple[str, ...]


class World(NamedTuple):
    """What all ranks write.

    Attributes:
        entries: the tensors of all ranks.
        rows: the chunks of these.
        values: of each value, by its name, the rank that writes it and the length of its file.
        paths: of what rank 0 has not.
        ties: names of the same tensor.
        world_size: the number of ranks.
    """

    entries: list[Entry]
    rows: Rows
    values: dict[str, tuple[int, int]]
    paths: dict[str, Path]
    ties: dict[str, str]
    world_size: int

    def by_rank(self) -> list[Written]:
        """What each rank writes."""
        order = np.argsort(self.rows.rank, kind="stable")
        borders = np.searchsorted(self.rows.rank[order], np.arange(self.world_size + 1))
        values: list[list[str]] = [[] for _ in range(self.world_size)]
        for name, (rank, _) in self.values.items():
            values[rank].append(name)
        return [
            Written(order[start:end], tuple(names))
            for start, end, names in zip(borders[:-1], borders[1:], values, strict=True)
        ]


def _check_ties(ties: Mapping[str, str], entries: Sequence[Entry], kept: Rows, ranks: Sequence[Own]) -> None:
    """Refuses what one rank has to itself, but in memory of which another rank's values are written."""
    for name, first in ties.items():
        owners = [rank for rank, own in enumerate(ranks) if name in own.ties]
        if len(owners) == len(ranks):
            continue
        number = next((at for at, one in enumerate(entries) if one.name == first), -1)
        writers = kept.rank[kept.entry == number]
        if len(writers) == 1 and int(writers[0]) not in owners:
            what = f"{name} is at rank {owners[0]} the tensor {first}, which rank {int(writers[0])} writes"
            raise UnsavableStateError(what, "", "save a copy of it: tensor.clone()")


def assign(table: Table, ranks: Sequence[Own]) -> World:
    """Decides who writes what.

    Args:
        table: of rank 0.
        ranks: what each rank has.

    Raises:
        UnsavableStateError: ranks have different tensors of one name, or the chunks of one are not all of it.
    """
    entries = list(table.entries)
    rows = _rows(entries, ranks)
    numbered, found = _identified(rows)
    writing = _chosen(rows, numbered, found)
    is_written = np.zeros(len(rows.rank), bool)
    is_written[writing] = True
    kept = rows if is_written.all() else Rows(*(column[is_written] for column in rows))
    _check(entries, kept)
    values: dict[str, tuple[int, int]] = {}
    paths: dict[str, Path] = {}
    ties: dict[str, str] = {}
    for rank, own in enumerate(ranks):
        for name, size in own.values.items():
            values.setdefault(name, (rank, size))
        for name, path in own.paths.items():
            paths.setdefault(name, path)
        for name, first in own.ties.items():
            ties.setdefault(name, first)
    written = {one.name for one in entries}
    clashing = values.keys() & written
    if clashing:
        raise UnsavableStateError(f"{min(clashing)} is a tensor at one rank and none at another")
    ties = {name: first for name, first in ties.items() if name not in written}
    _check_ties(ties, entries, kept, ranks)
    return World(entries, kept, values, paths, ties, len(ranks))


def _rows(entries: list[Entry], ranks: Sequence[Own]) -> Rows:
    """All chunks, by tensor, then by rank; adds the tensors that rank 0 has not to the entries."""
    common = len(entries)
    extras = _extras(entries, ranks)
    dimensions = max((len(one.shape) for one in entries), default=0)
    chunks = np.stack([one.chunks for one in ranks], axis=1)
    is_there = chunks[:common, :, 1, 0] != ABSENT
    entry, rank = np.nonzero(is_there)
    there = chunks.reshape(-1, *chunks.shape[2:]) if is_there.all() else chunks[entry, rank]
    lengths = np.array([len(one.shape) for one in entries], np.int64)
    item = np.array([DTYPES[one.dtype].item_bytes for one in entries], np.int64)
    number = len(rank) + len(extras)
    offsets, sizes = np.zeros((number, dimensions), np.int64), np.ones((number, dimensions), np.int64)
    wide = there.shape[-1] - 1
    offsets[: len(rank), :wide] = there[:, 0, 1:]
    sizes[: len(rank), :wide] = there[:, 1, 1:]
    for at, (_, _, chunk) in enumerate(extras, len(rank)):
        offsets[at, : len(chunk.offsets)] = chunk.offsets
        sizes[at, : len(chunk.sizes)] = chunk.sizes
    rank = np.append(rank, np.array([one for one, _, _ in extras], np.int64))
    entry = np.append(entry, np.array([one for _, one, _ in extras], np.int64))
    if dimensions:
        sizes[np.arange(dimensions) >= lengths[entry, None]] = 1
    return Rows(entry, rank, offsets, sizes, sizes.prod(axis=1) * item[entry])


def _extras(entries: list[Entry], ranks: Sequence[Own]) -> list[tuple[int, int, Chunk]]:
    """The rank, the entry's number and the chunk of each, by these numbers and then by rank."""
    extras = []
    numbers = {one.name: number for number, one in enumerate(entries)}
    for rank, own in enumerate(ranks):
        for entry, chunk in own.extras:
            number = numbers.setdefault(entry.name, len(entries))
            if number == len(entries):
                entries.append(entry)
            if entries[number] != entry:
                shapes = f"{entries[number].dtype} {entries[number].shape} and {entry.dtype} {entry.shape}"
                what = f"rank {rank} has another {entry.name} than an earlier rank: {shapes}"
                hint = "put what differs between ranks under a key of each rank"
                raise UnsavableStateError(what, "", hint)
            extras.append((rank, number, chunk))
    return sorted(extras, key=operator.itemgetter(1))


def _identified(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """The rows in an order in which those of the same chunk follow each other, and where each chunk starts.

    Within a chunk the ranks ascend.
    """
    code = mixed(rows.entry.astype(np.uint64))
    for number in range(rows.offsets.shape[1]):
        for column in (rows.offsets[:, number], rows.sizes[:, number]):
            code = mixed(code + column.astype(np.uint64))
    order = np.argsort(code, kind="stable")
    code = code[order]
    starts = np.flatnonzero(np.concatenate(([True], code[1:] != code[:-1]))) if len(code) else order
    return order, starts


def mixed(code: np.ndarray) -> np.ndarray:
    """Spreads numbers over 64 bits; the step of splitmix64 (Steele, Lea, Flood, 2014)."""
    code = code + np.uint64(0x9E3779B97F4A7C15)
    code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: np.ndarray = code ^ (code >> np.uint64(31))
    return found


def _chosen(rows: Rows, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """One row of each chunk: large ones go to whoever has the fewest bytes to write, largest first."""
    first = order[starts]
    counts = np.diff(np.append(starts, len(order)))
    is_spread = (counts > 1) & (rows.nbytes[first] >= _SPREAD_FROM_BYTES)
    decided = first[~is_spread]
    ranks = int(rows.rank.max(initial=0)) + 1
    load = np.bincount(rows.rank[decided], rows.nbytes[decided], ranks)
    spread = np.flatnonzero(is_spread)
    spread = spread[np.lexsort((rows.entry[first[spread]], -rows.nbytes[first[spread]]))]
    taken = np.empty(len(spread), np.int64)
    for number, one in enumerate(spread):
        candidates = order[starts[one] : starts[one] + counts[one]]
        best = candidates[load[rows.rank[candidates]].argmin()]
        load[rows.rank[best]] += rows.nbytes[best]
        taken[number] = best
    return np.concatenate((decided, taken))


def _check(entries: list[Entry], rows: Rows) -> None:
    """Compares the chunks of each tensor with the whole.

    Raises:
        UnsavableStateError: they are more or less than that.
    """
    item = np.array([DTYPES[one.dtype].item_bytes for one in entries], np.int64)
    shapes = np.ones((len(entries), rows.sizes.shape[1]), np.int64)
    for number, one in enumerate(entries):
        shapes[number, : len(one.shape)] = one.shape
    stored = np.bincount(rows.entry, rows.nbytes, len(entries)).astype(np.int64)
    is_bad = stored != shapes.prod(axis=1) * item
    # A row of a tensor without elements has none, so it is counted.
    is_bad |= np.bincount(rows.entry, minlength=len(entries)) == 0
    outside = (rows.offsets + rows.sizes > shapes[rows.entry]).any(axis=1)
    is_bad[rows.entry[outside]] = True
    if is_bad.any():
        bad = [entries[number].name for number in np.flatnonzero(is_bad)]
        names = ", ".join(bad[:_MOST_NAMED]) + (" ..." if len(bad) > _MOST_NAMED else "")
        what = f"the parts that the ranks have of {names} overlap, or are not all of it"
        raise UnsavableStateError(what, "", "all ranks of the tensor's mesh save it together")
