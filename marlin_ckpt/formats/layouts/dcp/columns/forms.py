"""Records of one form in a pickle, written from arrays and read into arrays.

Where the pickler writes an object after the other, all records of a form have one length, and what differs
between them is at the same places: so a million of them take a second, and no object.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_SMALL = 2**31
_INT, _LONG = b"J", b"\x8a\x08"  # the opcodes BININT, and LONG1 of eight bytes
_FIRST_LOOK, _MOST_LOOKED_AT = 16, 1 << 16  # records that are compared with their form at once


class Index(NamedTuple):
    """Where records have the number of what the pickle keeps: the argument of LONG_BINGET or LONG_BINPUT."""

    name: str


class Number(NamedTuple):
    """Where records have an integer with its opcode: a short one where those of all records are small."""

    name: str


Form = tuple[bytes | Index | Number, ...]


class Read(NamedTuple):
    """Records that were read.

    Attributes:
        columns: what differs between them, by the names of the form, each an array with an element a record.
        number: how many they are.
        end: where the last of them ends.
    """

    columns: dict[str, np.ndarray]
    number: int
    end: int


def write(form: Form, columns: Mapping[str, np.ndarray], number: int) -> np.ndarray:
    """Records as an array, of which any stretch is bytes of the pickle.

    Args:
        form: of the records.
        columns: what differs between them, none negative.
        number: how many they are.
    """
    parts: list[tuple[bytes | str, Any]] = []
    for one in form:
        if isinstance(one, bytes):
            parts.append((f"V{len(one)}", np.void(one)))
        elif isinstance(one, Index):
            parts.append(("<u4", columns[one.name]))
        else:
            values = columns[one.name]
            opcode, kind = (_INT, "<i4") if values.max(initial=0) < _SMALL else (_LONG, "<i8")
            parts += [(f"V{len(opcode)}", np.void(opcode)), (kind, values)]
    records = np.empty(number, _record(tuple(str(kind) for kind, _ in parts)))
    for at, (_, values) in enumerate(parts):
        records[f"c{at}"] = values
    return records


@functools.lru_cache(maxsize=256)
def _record(kinds: tuple[str, ...]) -> np.dtype[Any]:
    return np.dtype([(f"c{number}", kind) for number, kind in enumerate(kinds)])


def read(form: Form, data: np.ndarray, start: int) -> Read:
    """Reads as many records as there are, none among them.

    Args:
        form: of the records.
        data: the bytes of the pickle.
        start: where the first record is, if there is one.
    """
    fitted = _fitted(form, data, start)
    if fitted is None:
        return Read({}, 0, start)
    kind, sample, is_fixed = fitted
    number = _alike(data[start:], sample, is_fixed)
    end = start + number * kind.itemsize
    records = data[start:end].view(kind)
    names = [one.name for one in form if not isinstance(one, bytes)]
    return Read({name: np.ascontiguousarray(records[name]) for name in names}, number, end)


def _fitted(form: Form, data: np.ndarray, start: int) -> tuple[np.dtype[Any], np.ndarray, np.ndarray] | None:
    """How long the integers of the first record are.

    Returns:
        the kind of the records; the first of them; of each byte whether it is the same in all of them.
        None where the first one is not of the form.
    """
    fields: list[tuple[str, str]] = []
    is_fixed: list[bool] = []
    at = start
    for one in form:
        if isinstance(one, Index):
            name, kind = one.name, "<u4"
        elif isinstance(one, Number):
            opcode = _INT if data[at : at + 1].tobytes() == _INT else _LONG
            name, kind = one.name, "<i4" if opcode is _INT else "<i8"
        if isinstance(one, bytes | Number):
            constant = one if isinstance(one, bytes) else opcode
            if data[at : at + len(constant)].tobytes() != constant:
                return None
            fields.append((f"c{len(fields)}", f"V{len(constant)}"))
            is_fixed += [True] * len(constant)
            at += len(constant)
        if not isinstance(one, bytes):
            fields.append((name, kind))
            size = np.dtype(kind).itemsize
            is_fixed += [False] * size
            at += size
    if at > len(data):
        return None
    return np.dtype(fields), data[start:at], np.array(is_fixed)


def _alike(data: np.ndarray, sample: np.ndarray, is_fixed: np.ndarray) -> int:
    """How many records follow each other that are a sample but where they may differ."""
    size, found, look = len(sample), 0, _FIRST_LOOK
    mask = np.where(is_fixed, np.uint8(0xFF), np.uint8(0))
    while number := min(look, len(data) // size - found):
        block = data[found * size : (found + number) * size].reshape(number, size)
        differs = ((block ^ sample) & mask).any(axis=1)
        same = int(differs.argmax()) if differs.any() else number
        found += same
        if same < number:
            break
        look = min(look * 8, _MOST_LOOKED_AT)
    return found
