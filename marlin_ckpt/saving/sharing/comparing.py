"""Compares the data of a new checkpoint with what an earlier one holds."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from isal import isal_zlib

from marlin_ckpt.formats.digests import PIECE_BYTES, Hashing, first_of
from marlin_ckpt.formats.shared import Same
from marlin_ckpt.saving.sharing.decide import Copy
from marlin_ckpt.saving.sharing.past import Source
from marlin_ckpt.storage.target import Span


class Data(NamedTuple):
    """The data of the records of a new file.

    Attributes:
        sizes: their lengths in bytes, by their names.
        of: the first bytes of a record, or all where None are asked for.
        is_final: whether nothing changes them any more.
    """

    sizes: Mapping[str, int]
    of: Callable[[str, int | None], memoryview]
    is_final: bool


def found(data: Data, alignment: int, name: str, copies: Iterable[Copy[Source]]) -> Same | None:
    """The copy of a record among some; None where there is none.

    What has changed is mostly known by its first bytes.
    """
    first = first_of(data.of(name, PIECE_BYTES))
    left = [one for one in copies if one.held.digest.first == first]
    if not left:
        return None
    view = data.of(name, None)
    size = len(view) if data.is_final else len(view) // alignment * alignment
    is_looked_at = size >= PIECE_BYTES
    hashing = Hashing(first if is_looked_at else b"")
    rest = bytes(view[size:])  # is written from memory, where it may be something else by then
    hashing.add(view[PIECE_BYTES if is_looked_at else 0 : size])
    hashing.add(memoryview(rest))
    digest = hashing.digest()
    for one in left:
        own = one.place.own
        known = own.held[name]
        if one.held.digest == digest and (own.read_of is None or known.crc32 == _crc32_of(view[:size], rest)):
            return Same(
                Span(one.place.fd, known.start, size),
                _crc32_before(known.crc32, rest),
                one.held,
                known.blocks,
            )
    return None


def _crc32_of(data: memoryview, rest: bytes) -> int:
    return int(isal_zlib.crc32(rest, isal_zlib.crc32(data)))


def _crc32_before(crc32: int, rest: bytes) -> int:
    """The CRC32 of bytes, by that of all of them with the rest behind.

    A CRC32 is a remainder that each byte behind it multiplies by x^8. The polynomial is primitive, so that
    2^32 - 1 such bytes change nothing, and that many but for the rest undo it.
    """
    if not rest:
        return crc32
    return int(isal_zlib.crc32_combine(crc32 ^ isal_zlib.crc32(rest), 0, (1 << 32) - 1 - len(rest)))
