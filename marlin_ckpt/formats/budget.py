"""Limits on the time and memory that reading the metadata of an untrusted file may take.

Metadata is what says where the tensors are: a pickle, a safetensors header, a manifest. What reading it takes
is counted, not measured, so that the same file is always treated alike: opcodes and nodes stand for time,
room for memory. The limits grow with the metadata; what they allow beside that is 2 seconds and 200 MB.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from marlin_ckpt.errors import UnsafeCheckpointError

LARGEST_PICKLE = 128 << 20  # bytes; that of a million tensors
# A fifth of a microsecond each. torch.save writes one in three bytes; a list of None has one a byte.
_FREE_OPCODES = 5_000_000
_BYTES_AN_OPCODE = 2
# Bytes of memory. The state of Adam takes 20 of them for each byte of its pickle.
_FREE_ROOM = 60_000_000
_ROOM_A_BYTE = 24
# Places in what is shown of a file, ten microseconds each. The state of Adam has one in 23 bytes.
_FREE_NODES = 60_000
_BYTES_A_NODE = 20
# What JSON makes of these characters where they are no part of a text: a dict, its items, a list, its parts.
_JSON_ROOM = ((b"{", 232), (b":", 300), (b"[", 88), (b",", 40))
_MOST_QUOTES = 1_000_000  # of JSON whose texts are told from the rest; that takes 60 bytes of memory for each
_JSON_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


class ExcessError(UnsafeCheckpointError):
    """Reading a file would take more time or memory than any of its length that a tool wrote."""


class Budget:
    """What reading one file's metadata may still take.

    Args:
        length: tells how many bytes of metadata have been read so far.
        path: the file, for messages.
    """

    def __init__(self, length: Callable[[], int], path: str = "") -> None:
        self._length, self._path = length, path
        self._opcodes = self._nodes = 0
        self._room = _FREE_ROOM
        self._counted = 0  # bytes of the metadata whose room was added

    def count_opcodes(self, number: int) -> None:
        """Counts opcodes of a pickle.

        Raises:
            ExcessError: there are too many for its length.
        """
        self._opcodes += number
        if self._opcodes > _FREE_OPCODES + self._length() // _BYTES_AN_OPCODE:
            self.refuse("its pickle holds far more objects than a state of its length")

    def count_nodes(self, number: int) -> None:
        """Counts places of what is shown of a file.

        Raises:
            ExcessError: there are too many for its length.
        """
        self._nodes += number
        if self._nodes > _FREE_NODES:
            self.expect_nodes(0)

    def expect_nodes(self, number: int) -> None:
        """Looks ahead, so that what has too many places is refused before they are made.

        Args:
            number: how many more places will be counted.

        Raises:
            ExcessError: with them there would be too many for its length.
        """
        if self._nodes + number > _FREE_NODES + self._length() // _BYTES_A_NODE:
            self.refuse("it holds far more values than a state of its length")

    def charge(self, cost: int) -> None:
        """Takes room.

        Args:
            cost: bytes of memory; or what takes as long as filling so many, at ten nanoseconds each.

        Raises:
            ExcessError: none is left.
        """
        self._room -= cost
        if self._room < 0:
            length = self._length()
            self._room += (length - self._counted) * _ROOM_A_BYTE
            self._counted = length
            if self._room < 0:
                self.refuse("reading it would take far more memory than a state of its length")

    def refuse(self, reason: str) -> None:
        """Raises an ExcessError for some other reason."""
        raise ExcessError(f"refused as too large: {reason}", self._path)


def check_json(text: bytes, path: str = "") -> None:
    """Checks, before it is read, how much memory JSON takes.

    Raises:
        ExcessError: more than its length allows.
    """
    budget = Budget(lambda: len(text), path)
    room = _json_room(text)
    if room > _FREE_ROOM and text.count(b'"') < _MOST_QUOTES:
        room = _json_room(_JSON_TEXT.sub(b"", text))
    budget.charge(room)


def versioned_json(data: bytes, path: str, newest: int) -> Any:
    """Reads a record of ours: a JSON object with the version of its form in `format_version`.

    Args:
        data: the bytes of the record.
        path: the file, for messages.
        newest: the latest version that is known; the first is 1.

    Returns:
        the object; None where a newer marlin-ckpt wrote it in another way.

    Raises:
        ExcessError: it would take more memory than its length allows.
        ValueError: it is no JSON, or has no known version.
        KeyError, TypeError, RecursionError: it is no such object.
    """
    check_json(data, path)
    values = json.loads(data)
    version = values["format_version"]
    if type(version) is not int or version < 1:
        raise ValueError("it has no known format")
    return values if version <= newest else None


def _json_room(text: bytes) -> int:
    return sum(text.count(part) * cost for part, cost in _JSON_ROOM)
