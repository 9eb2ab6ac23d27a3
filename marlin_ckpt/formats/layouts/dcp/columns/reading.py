"""Takes the `.metadata` of marlin-ckpt apart: in time and memory by its length, running none of it."""

from __future__ import annotations

import numpy as np

from marlin_ckpt.formats.layouts.dcp.columns import vocabulary
from marlin_ckpt.formats.layouts.dcp.columns.columns import Column, Columns, Places, Table
from marlin_ckpt.formats.layouts.dcp.columns.forms import Form, read
from marlin_ckpt.formats.layouts.dcp.pieces import Path, leads_outside
from marlin_ckpt.formats.values.dtypes import DTYPES
from marlin_ckpt.storage.source import Source

_KINDS = (np.uint32, np.uint32, np.uint32, np.int64, np.int64)  # of the columns of places
_MOST_DIMENSIONS = 64  # torch's own limit
_LONGEST_NAME = 100  # bytes of a dtype
_LIMIT = 2**62  # of a size or a place
_FIRST_NEGATIVE = 2**31  # of the four bytes of BININT
_LENGTHS = {b"J": 5, b"\x8a": 10}  # of integers with their opcodes


class _OtherError(Exception):
    """The bytes are not of the form that marlin-ckpt writes."""


def is_of_columns(source: Source) -> bool:
    """Whether a file begins as a `.metadata` of marlin-ckpt does."""
    return source.read(0, len(vocabulary.START)) == vocabulary.START


def read_columns(data: bytes) -> Columns | None:
    """Reads a `.metadata`.

    Args:
        data: the whole file.

    Returns:
        what it says; None where marlin-ckpt did not write it so, or it is damaged.
    """
    try:
        return _Reading(data).columns()
    except (_OtherError, UnicodeDecodeError):
        return None


class _Reading:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._next = vocabulary.FIRST  # number that nothing is kept under
        self._texts: dict[int, str] = {}
        self._dtypes: dict[int, str] = {}
        self._tables: dict[int, Table] = {}

    def columns(self) -> Columns:
        self._take(vocabulary.START)
        while self._data.startswith(b"X", self._at):
            self._texts[self._next] = self._text()
            self._keep()
        before, behind = vocabulary.PROPERTIES
        while self._has(before):
            end = self._data.find(b"\n", self._at, self._at + _LONGEST_NAME)
            self._dtypes[self._next] = self._data[self._at : max(end, self._at)].decode("ascii")
            self._at = max(end, self._at)
            self._take(behind)
            self._keep()
        while not self._has(vocabulary.METADATA):
            self._table()
        described: dict[str, Column | None] = {}
        while not self._has(vocabulary.PATHS):
            name = self._known()
            if name in described:
                raise _OtherError
            described[name] = None if self._has(vocabulary.VALUE) else self._tensor()
        paths: dict[str, Path] = {}
        while not self._has(vocabulary.PLACES):
            name = self._known()
            paths[name] = self._path()
        places = self._places()
        if self._at != len(self._data) or paths.keys() != described.keys():
            raise _OtherError
        self._check(described, places)
        return Columns(described, paths, self._texts, self._tables, places)

    def _has(self, constant: bytes) -> bool:
        is_there = self._data.startswith(constant, self._at)
        if is_there:
            self._at += len(constant)
        return is_there

    def _take(self, constant: bytes) -> None:
        if not self._has(constant):
            raise _OtherError

    def _number(self, size: int) -> int:
        return int.from_bytes(self._cut(size), "little")

    def _cut(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._data):
            raise _OtherError
        return self._data[self._at - size : self._at]

    def _text(self) -> str:
        self._take(b"X")
        return self._cut(self._number(4)).decode("utf-8", "surrogatepass")

    def _keep(self) -> None:
        self._take(vocabulary.kept(self._next))
        self._next += 1

    def _known(self) -> str:
        self._take(b"j")
        found = self._texts.get(self._number(4))
        if found is None:
            raise _OtherError
        return found

    def _records(self, form: Form) -> tuple[dict[str, np.ndarray], int]:
        found = read(form, self._data, self._at)
        if any(one.dtype.kind == "i" and one.min() < 0 for one in found.columns.values()):
            raise _OtherError
        self._at = found.end
        return found.columns, found.number

    def _table(self) -> None:
        """Sizes of one number of dimensions."""
        dimensions, at = 0, self._at + len(vocabulary.get("Size")) + 1
        while size := _LENGTHS.get(self._data[at : at + 1]):
            dimensions, at = dimensions + 1, at + size
            if dimensions > _MOST_DIMENSIONS:
                raise _OtherError
        columns, number = self._records(vocabulary.sizes(dimensions))
        if not number or dimensions in self._tables:
            raise _OtherError
        if (columns["number"] != np.arange(self._next, self._next + number)).any():
            raise _OtherError
        rows = np.empty((number, dimensions), np.int64)
        for one in range(dimensions):
            rows[:, one] = columns[str(one)]
        if rows.max(initial=0) >= _LIMIT:
            raise _OtherError
        self._tables[dimensions] = Table(self._next, rows)
        self._next += number

    def _tensor(self) -> Column:
        properties, shape = vocabulary.TENSOR
        self._take(properties)
        dtype = self._dtypes.get(self._number(4), "")
        self._take(shape)
        sizes: list[int] = []
        while len(sizes) < _MOST_DIMENSIONS and self._has(vocabulary.LENGTH):
            sizes.append(self._number(8))
        before, behind = vocabulary.CHUNKS
        self._take(before)
        columns, number = self._records(vocabulary.CHUNK)
        self._take(behind)
        if not number or dtype not in DTYPES or max(sizes, default=0) >= _LIMIT:
            raise _OtherError
        return Column(dtype, tuple(sizes), columns["offsets"], columns["sizes"])

    def _path(self) -> Path:
        parts: list[str | int] = []
        self._take(b"(")
        while not self._has(b"t"):
            if not self._has(b"J"):
                parts.append(self._text())
            elif (number := self._number(4)) < _FIRST_NEGATIVE:
                parts.append(number)
            else:
                raise _OtherError
        if not parts:
            raise _OtherError
        return tuple(parts)

    def _places(self) -> Places:
        found = [Places(*(np.empty(0, kind) for kind in _KINDS))]
        while not self._has(vocabulary.END):
            columns, number = self._records(vocabulary.PIECE)
            if not number:
                columns, number = self._records(vocabulary.PLACE)
                columns["offsets"] = np.zeros(number, np.uint32)
            if not number:
                raise _OtherError
            each = zip(Places._fields, _KINDS, strict=True)
            found.append(Places(*(columns[name].astype(kind) for name, kind in each)))
        return Places(*map(np.concatenate, zip(*found, strict=True)))

    def _check(self, described: dict[str, Column | None], places: Places) -> None:
        """Looks whether all that is named by a number is there."""
        for one in described.values():
            if one is not None:
                table = self._tables.get(len(one.shape))
                if table is None or not (_are_of(one.offsets, table) and _are_of(one.sizes, table)):
                    raise _OtherError
        first, last = vocabulary.FIRST, vocabulary.FIRST + len(self._texts)
        for column in (places.name, places.file):
            if len(column) and not first <= column.min() <= column.max() < last:
                raise _OtherError
        if any(leads_outside(self._texts[number]) for number in np.unique(places.file).tolist()):
            raise _OtherError


def _are_of(numbers: np.ndarray, table: Table) -> bool:
    return bool(table.first <= numbers.min() and numbers.max() < table.first + len(table.rows))
