"""A pickle with gaps for plain values, by which others that differ in these alone are read and made."""

import secrets
import struct
from collections.abc import Sequence
from types import NoneType
from typing import NamedTuple

SCALARS: frozenset[type] = frozenset({int, float, bool, NoneType})  # of which a pickler remembers none
# What is pickled in the place of each: a number that no state has, as the opcode BINFLOAT and 8 bytes.
_MARK_BYTES = b"\x3f" + secrets.token_bytes(7)
MARK: float = struct.unpack(">d", _MARK_BYTES)[0]
# The lengths of plain values, by their opcodes; that of LONG1 is in its next byte. See `pickletools`.
_LENGTHS = {b"N": 1, b"\x88": 1, b"\x89": 1, b"K": 2, b"M": 3, b"J": 5, b"G": 9}
_LONG1 = b"\x8a"


class Template(NamedTuple):
    """A pickle in pieces.

    Attributes:
        pieces: what is before, between and after the gaps.
    """

    pieces: Sequence[bytes]

    def read(self, pickle: bytes) -> list[bytes] | None:
        """The plain values of a pickle, as written there; None where it differs in more than these."""
        first, *others = self.pieces
        if not pickle.startswith(first):
            return None
        found = []
        at = len(first)
        for piece in others:
            opcode = pickle[at : at + 1]
            length = 2 + pickle[at + 1] if opcode == _LONG1 else _LENGTHS.get(opcode, 0)
            end = at + length
            if not (length and pickle.startswith(piece, end)):
                return None
            found.append(pickle[at:end])
            at = end + len(piece)
        return found if at == len(pickle) else None

    def filled(self, values: Sequence[bytes]) -> bytes:
        """The pickle that has these plain values, one for each gap."""
        parts = [self.pieces[0]]
        for value, piece in zip(values, self.pieces[1:], strict=True):
            parts += value, piece
        return b"".join(parts)


def cut(pickle: bytes) -> Template:
    """Cuts a pickle in which each plain value is `MARK`."""
    return Template(pickle.split(b"G" + _MARK_BYTES))
