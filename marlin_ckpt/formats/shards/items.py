"""What a shard is made of, and where each of it is."""

from collections.abc import Iterable
from typing import NamedTuple

from isal import isal_zlib

BLOCK_BYTES = 1 << 20  # that have one CRC32


class TensorItem(NamedTuple):
    """A contiguous tensor that a shard holds; of `formats.zip.state_dict.tensor_pickle`, say.

    Attributes:
        pickle: the record `data.pkl` of a file of `torch.save` that holds this tensor alone.
        size_bytes: the length of its data.
    """

    pickle: bytes
    size_bytes: int


class ValueItem(NamedTuple):
    """A value that a shard holds.

    Attributes:
        data: a complete file of `torch.save`, which is padded.
        slot: the length that it is padded to, one that `slot_bytes` has returned; 0 for the least.
    """

    data: bytes
    slot: int = 0


Item = TensorItem | ValueItem


class Place(NamedTuple):
    """Where an item is in its shard.

    Attributes:
        start: of its file of `torch.save`, in bytes, as torch's metadata says it.
        size_bytes: the length of that file, of a value with what pads it.
        data_start: where the data of a tensor starts in the shard; of a value, `start`.
        data_bytes: the length of that data; of a value, `size_bytes`.
    """

    start: int
    size_bytes: int
    data_start: int
    data_bytes: int


class ShardPlan(NamedTuple):
    """Where a shard will have its bytes.

    Attributes:
        places: of the items, in their order.
        size_bytes: the exact length of the file.
    """

    places: tuple[Place, ...]
    size_bytes: int


class ShardAbout(NamedTuple):
    """Which shard of which save a file is.

    Attributes:
        save_id: of the save, the same in each shard and in the manifest: up to 64 characters of ASCII.
        rank: that wrote it.
    """

    save_id: str
    rank: int


class ShardSums(NamedTuple):
    """What was written.

    Attributes:
        size_bytes: the length of the file.
        crc32: of all its bytes.
    """

    size_bytes: int
    crc32: int


def whole_crc32(blocks: Iterable[int], size_bytes: int) -> int:
    """The CRC32 of data, of that of each block in it.

    Args:
        blocks: the CRC32s, in their order.
        size_bytes: the length of the data.
    """
    whole = 0
    for number, crc32 in enumerate(blocks):
        whole = isal_zlib.crc32_combine(whole, crc32, min(BLOCK_BYTES, size_bytes - number * BLOCK_BYTES))
    return whole
