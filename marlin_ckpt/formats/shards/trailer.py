"""The last record of a shard: which save it is of, where its items are, and the CRC32 of each MiB of them.

A line of JSON, padded by spaces to 256 bytes; then, in little-endian binary, for each item where its file of
`torch.save` starts, where its data starts and how long that is (8 bytes each); then 4 bytes for each block.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from marlin_ckpt.errors import UnknownFormatError
from marlin_ckpt.formats.shards.items import BLOCK_BYTES, Place, ShardAbout

NAME = ".marlin/shard"
FORMAT_VERSION = 1
MOST_BYTES = 128 << 20  # of 24 bytes an item and 4 a MiB: millions of items, or 30 TB
_HEAD_BYTES = 256
_LONGEST_ID = 64
_ITEM = struct.Struct("<QQQ")
_LIMIT = 1 << 62


class Extent(NamedTuple):
    """What the record says of one item.

    Attributes:
        start: where its file of `torch.save` starts.
        data_start: where its data starts; of a value, which has all of its file as data, `start`.
        data_bytes: how long that is.
        first_block: the number of its first CRC32.
    """

    start: int
    data_start: int
    data_bytes: int
    first_block: int


class Shard(NamedTuple):
    """What a shard says of itself.

    Attributes:
        about: which shard of which save it is.
        items: in their order, by where they start.
        block_bytes: of the data of an item, that have one CRC32.
        crcs: of the blocks of all items.
    """

    about: ShardAbout
    items: dict[int, Extent]
    block_bytes: int
    crcs: array[int]


def size_bytes(places: Sequence[Place]) -> int:
    """The length of the record."""
    return (
        _HEAD_BYTES
        + len(places) * _ITEM.size
        + 4 * sum(_blocks(one.data_bytes, BLOCK_BYTES) for one in places)
    )


def encode(about: ShardAbout, places: Sequence[Place], crcs: Sequence[int]) -> bytes:
    """The bytes of the record.

    Raises:
        ValueError: the save id is too long, or none that can be written.
    """
    if not (
        about.save_id.isascii() and about.save_id.isprintable() and 0 < len(about.save_id) <= _LONGEST_ID
    ):
        raise ValueError(f"no id of a save: {about.save_id[:_LONGEST_ID]!r}")
    values = {
        "format_version": FORMAT_VERSION,
        "save_id": about.save_id,
        "rank": about.rank,
        "items": len(places),
        "block_bytes": BLOCK_BYTES,
    }
    head = json.dumps(values, separators=(",", ":")).encode().ljust(_HEAD_BYTES - 1) + b"\n"
    table = b"".join(_ITEM.pack(one.start, one.data_start, one.data_bytes) for one in places)
    return head + table + _little_endian(array("I", crcs)).tobytes()


def decode(data: bytes, path: str = "") -> Shard:
    """Reads the bytes of the record.

    Raises:
        UnknownFormatError: a newer marlin-ckpt wrote it.
        ValueError: it is no such record.
    """
    head = _object(data[:_HEAD_BYTES])
    version, rank, number, block_bytes = (
        _number(head.get(name)) for name in ("format_version", "rank", "items", "block_bytes")
    )
    if version > FORMAT_VERSION:
        what = f"the shard has format {version}, this marlin-ckpt reads {FORMAT_VERSION}"
        raise UnknownFormatError(what, path, "a newer marlin-ckpt wrote it: upgrade")
    save_id = head.get("save_id")
    end = _HEAD_BYTES + number * _ITEM.size
    if type(save_id) is not str or not block_bytes or end > len(data):
        raise ValueError("its head does not hold")
    items: dict[int, Extent] = {}
    block = 0
    for start, data_start, data_bytes in _ITEM.iter_unpack(data[_HEAD_BYTES:end]):
        if not start <= data_start < _LIMIT or data_bytes > _LIMIT or start in items:
            raise ValueError("the place of an item does not hold")
        items[start] = Extent(start, data_start, data_bytes, block)
        block += _blocks(data_bytes, block_bytes)
    if len(data) != end + 4 * block:
        raise ValueError("it has another length than its items say")
    crcs = array("I")
    crcs.frombytes(data[end:])
    return Shard(ShardAbout(save_id, rank), items, block_bytes, _little_endian(crcs))


def _object(text: bytes) -> dict[str, object]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no object")  # noqa: TRY004 - of a file, not of a caller
    return found


def _blocks(data_bytes: int, block_bytes: int) -> int:
    return -(-data_bytes // block_bytes)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < _LIMIT:
        raise ValueError("a number is missing")
    return value


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder != "little":
        numbers.byteswap()
    return numbers
