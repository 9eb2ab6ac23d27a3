"""Reads what a shard says of itself, and its items in blocks, each of which is compared with its CRC32."""

from isal import isal_zlib

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.shards import trailer
from marlin_ckpt.formats.shards.trailer import Extent, Shard
from marlin_ckpt.formats.zip.reader import read_alone
from marlin_ckpt.formats.zip.records import holds
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

_MOST_BLOCK_BYTES = 64 << 20  # of memory that a file makes a reader take


def read_shard(source: Source) -> Shard | None:
    """Reads the record of a shard that says what it is; nothing else but the zip's directory is read.

    Args:
        source: the file.

    Returns:
        what it says; None of a file that marlin-ckpt did not write.

    Raises:
        CorruptCheckpointError: it is damaged, or its items are not inside the file.
        UnsafeCheckpointError: it is larger than any that marlin-ckpt writes.
        UnknownFormatError: a newer marlin-ckpt wrote it.
        StorageError: the file cannot be read.
    """
    data = read_alone(source, trailer.NAME, min(trailer.MOST_BYTES, source.size_bytes))
    if data is None:
        return None
    try:
        found = trailer.decode(data, source.path)
    except ValueError as error:
        raise CorruptCheckpointError(f"what the shard says of itself: {error}", source.path) from error
    is_inside = all(one.data_start + one.data_bytes <= source.size_bytes for one in found.items.values())
    if not is_inside or found.block_bytes > _MOST_BLOCK_BYTES:
        raise CorruptCheckpointError("what the shard says of itself is not of this file", source.path)
    return found


def read_range(source: Source, shard: Shard, item: Extent, offset: int, place: memoryview) -> None:
    """Reads some of the data of an item, compares the CRC32 of each block that this is in, and reads no more.

    Blocks that lie wholly in it are read straight to their place; of the first and the last, which may be
    shared with others, the rest is read and forgotten.

    Args:
        source: the shard's file.
        shard: what it says of itself.
        item: whose data is read: a tensor's elements, or the file of `torch.save` of a value.
        offset: in that data, of the first byte.
        place: is filled, even if a CRC does not hold.

    Raises:
        CorruptCheckpointError: the CRC32 of a block does not hold, or the file has become shorter.
        StorageError: it cannot be read.
        ValueError: the item has not so many bytes.
    """
    view = place.cast("B")
    end = offset + len(view)
    if not 0 <= offset <= end <= item.data_bytes:
        raise ValueError(f"bytes {offset:,} to {end:,} of {item.data_bytes:,}")
    size = shard.block_bytes
    scratch = memoryview(b"")
    for number in range(offset // size, -(-end // size) if end > offset else 0):
        start, stop = number * size, min((number + 1) * size, item.data_bytes)
        is_whole = offset <= start and stop <= end
        if not is_whole and len(scratch) < stop - start:
            scratch = memoryview(bytearray(stop - start))
        block = view[start - offset : stop - offset] if is_whole else scratch[: stop - start]
        if source.read_into(item.data_start + start, block) < len(block):
            raise CorruptCheckpointError("truncated while it was read", source.path)
        record = Record("", len(block), shard.crcs[item.first_block + number], item.data_start + start)
        if not holds(record, isal_zlib.crc32(block)):
            at = f"the {len(block):,} bytes at {record.header_offset:,}"
            raise CorruptCheckpointError(f"the CRC of {at} does not hold", source.path)
        if not is_whole:
            first, last = max(start, offset), min(stop, end)
            view[first - offset : last - offset] = block[first - start : last - start]
