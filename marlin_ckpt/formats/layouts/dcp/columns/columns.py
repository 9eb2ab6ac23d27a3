"""What a `.metadata` of marlin-ckpt says of each tensor and value, kept as columns of numbers."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from marlin_ckpt.formats.layouts.dcp.pieces import Path, Place, Sizes


class Column(NamedTuple):
    """A tensor.

    Attributes:
        dtype: in torch's spelling.
        shape: of the whole.
        offsets: where each of its chunks begins: the number that this is kept under.
        sizes: of each of its chunks, in the same way.
    """

    dtype: str
    shape: Sizes
    offsets: np.ndarray
    sizes: np.ndarray


class Table(NamedTuple):
    """The sizes of one number of dimensions that are kept.

    Attributes:
        first: the number that the first of them is kept under.
        rows: all of them, int64 of shape [number, dimension].
    """

    first: int
    rows: np.ndarray

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """Those that are kept under some numbers."""
        found: np.ndarray = self.rows[numbers.astype(np.int64) - self.first]
        return found


class Places(NamedTuple):
    """Where items are: arrays with one element for each.

    Attributes:
        name: the number of the item's flat name.
        offsets: of a piece of a tensor, the number that its offsets are kept under; of a value, 0.
        file: the number of the file's name.
        start: of the item's first byte.
        size: how many bytes it takes.
    """

    name: np.ndarray
    offsets: np.ndarray
    file: np.ndarray
    start: np.ndarray
    size: np.ndarray

    def cut(self, at: slice | np.ndarray) -> Places:
        """Some of them."""
        return Places(*(column[at] for column in self))


class Columns:
    """All that it says.

    Attributes:
        tensors: by their flat names.
        values: the flat names of what is no tensor.
        paths: the keys that lead to what has a flat name.
        texts: the names of all, and of files, by the numbers in `places`.
        tables: the sizes of chunks, by the number of dimensions.
        places: of all items, those of a name beside one another.
    """

    def __init__(
        self,
        described: Mapping[str, Column | None],
        paths: dict[str, Path],
        texts: Mapping[int, str],
        tables: dict[int, Table],
        places: Places,
    ) -> None:
        self.tensors = {name: one for name, one in described.items() if one is not None}
        self.values = {name: None for name, one in described.items() if one is None}
        self.paths, self.texts, self.tables = paths, texts, tables
        is_ordered = bool((places.name[1:] >= places.name[:-1]).all())
        self.places = places if is_ordered else places.cut(np.argsort(places.name, kind="stable"))

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {text: number for number, text in reversed([*self.texts.items()])}

    def place_of(self, name: str, offsets: Sizes | None) -> Place | None:
        """Where an item is.

        Args:
            name: the flat name of a tensor or a value.
            offsets: of a tensor, where the chunk begins; None of a value.

        Returns:
            None where that is not said.
        """
        number = self._numbers[name]
        ends = np.array(
            [number, number + 1], self.places.name.dtype
        )  # of another type all would be converted
        there = self.places.cut(slice(*np.searchsorted(self.places.name, ends)))
        if offsets is None:
            is_it = there.offsets == 0
        else:
            table = self.tables[len(offsets)]
            at = there.offsets.astype(np.int64) - table.first
            is_kept = (at >= 0) & (at < len(table.rows))
            rows = table.rows[np.where(is_kept, at, 0)]
            is_it = is_kept & (rows == np.array(offsets, np.int64)).all(axis=1)
        if not is_it.any():
            return None
        first = int(is_it.argmax())
        return Place(self.texts[int(there.file[first])], int(there.start[first]), int(there.size[first]))

    def chunks_of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Where the chunks of a tensor begin, and their sizes; int64 of shape [chunk, dimension]."""
        one = self.tensors[name]
        table = self.tables[len(one.shape)]
        return table.of(one.offsets), table.of(one.sizes)

    def sizes(self) -> Iterator[tuple[int, Sizes]]:
        """All sizes that are kept, with their numbers."""
        for table in self.tables.values():
            yield from enumerate(map(tuple, table.rows.tolist()), table.first)

    def names_in(self, file: str) -> Iterator[str]:
        """The flat names of what is in a file."""
        there = self.places.name[self.places.file == self._numbers.get(file, -1)]
        return (self.texts[number] for number in np.unique(there).tolist())
