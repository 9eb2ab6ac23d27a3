"""Records of one form in a pickle, written from arrays and read into arrays.

Where the pickler writes an object after the other, all records of a form have one length, and what differs
between them is at the same places: so a million of them take a second, and no object.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_SMALL = 2**31
# Of BININT, and of LONG1 with eight bytes: the opcode, the kind of number, and what finds both in a pickle.
_SHORT = b"J", "<i4", rb"J.{4}"
_WIDE = b"\x8a\x08", "<i8", rb"\x8a\x08.{8}"


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
            opcode, kind, _ = _SHORT if values.max(initial=0) < _SMALL else _WIDE
            parts += [(f"V{len(opcode)}", np.void(opcode)), (kind, values)]
    records = np.empty(number, _record(tuple(str(kind) for kind, _ in parts)))
    for at, (_, values) in enumerate(parts):
        records[f"c{at}"] = values
    return records


@functools.lru_cache(maxsize=256)
def _record(kinds: tuple[str, ...]) -> np.dtype[Any]:
    return np.dtype([(f"c{number}", kind) for number, kind in enumerate(kinds)])


def read(form: Form, data: bytes, start: int) -> Read:
    """Reads as many records as there are, none among them.

    Args:
        form: of the records.
        data: the pickle.
        start: where the first record is, if there is one.
    """
    first = _one(form).match(data, start)
    if first is None:
        return Read({}, 0, start)
    kind, several = _alike(form, tuple(one.startswith(_SHORT[0]) for one in first.groups()))
    found = several.match(data, start)
    end = start if found is None else found.end()
    number = (end - start) // kind.itemsize
    records = np.frombuffer(data, kind, number, start)
    names = [one.name for one in form if not isinstance(one, bytes)]
    return Read({name: np.ascontiguousarray(records[name]) for name in names}, number, end)


@functools.lru_cache(maxsize=256)
def _one(form: Form) -> re.Pattern[bytes]:
    """Finds a record, and tells its integers with their opcodes."""
    return re.compile(b"".join(_part(one, b"(%b|%b)" % (_SHORT[2], _WIDE[2])) for one in form), re.DOTALL)


@functools.lru_cache(maxsize=256)
def _alike(form: Form, are_short: tuple[bool, ...]) -> tuple[np.dtype[Any], re.Pattern[bytes]]:
    """Finds records that follow each other and whose integers are equally long.

    Args:
        form: of the records.
        are_short: of each integer, whether it has four bytes.
    """
    fields: list[tuple[str, str]] = []
    parts: list[bytes] = []
    short = iter(are_short)
    for one in form:
        integer = b""
        if isinstance(one, bytes):
            fields.append((f"c{len(fields)}", f"V{len(one)}"))
        elif isinstance(one, Index):
            fields.append((one.name, "<u4"))
        else:
            opcode, kind, integer = _SHORT if next(short) else _WIDE
            fields += [(f"c{len(fields)}", f"V{len(opcode)}"), (one.name, kind)]
        parts.append(_part(one, integer))
    # Possessive: what matched is not tried again, nor remembered for that.
    return np.dtype(fields), re.compile(b"(?:" + b"".join(parts) + b")*+", re.DOTALL)


def _part(one: bytes | Index | Number, integer: bytes) -> bytes:
    if isinstance(one, bytes):
        return re.escape(one)
    return rb".{4}" if isinstance(one, Index) else integer
