"""Says where a shard will have its bytes, before one is written."""

from collections.abc import Sequence

from marlin_ckpt.formats.digests import LEAST_BYTES
from marlin_ckpt.formats.shards import trailer
from marlin_ckpt.formats.shards.items import Item, Place, ShardPlan, TensorItem
from marlin_ckpt.formats.shards.slots import slot_bytes
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.single import plan_tensor
from marlin_ckpt.formats.zip.structures import ALIGNMENT

_FOLDER_BYTES = len(structures.ARCHIVE) + 1  # of a record's name


def plan_shard(items: Sequence[Item], alignment: int = ALIGNMENT) -> ShardPlan:
    """Says where `write_shard` will put items, to the byte.

    Nothing but the lengths of pickles, data and slots matters: a million items take a few seconds.

    Args:
        items: in their order; the number of each is the name of its record.
        alignment: the multiple at which data starts that other shards may share, a power of two from 64 to
            65,536.
    """
    places = []
    at = directory = 0
    for number, one in enumerate(items):
        if isinstance(one, TensorItem):
            data_at, size = plan_tensor(len(one.pickle), one.size_bytes)
            data_bytes = one.size_bytes
        else:
            size = data_bytes = one.slot or slot_bytes(len(one.data))
            data_at = 0
        named = _FOLDER_BYTES + len(str(number))
        header, start = structures.place(named, size, at, alignment_of(one, alignment), data_at)
        places.append(Place(start, size, start + data_at, data_bytes))
        directory += structures.central_entry_bytes(named, size, header)
        at = start + size + structures.descriptor_bytes(size, header)
    size = trailer.size_bytes(places)
    named = _FOLDER_BYTES + len(trailer.NAME)
    directory += structures.central_entry_bytes(named, size, at)
    at += structures.local_header_bytes(named, size, at) + size + structures.descriptor_bytes(size, at)
    end = len(structures.end_records(len(places) + 1, directory, at))
    return ShardPlan(tuple(places), at + directory + end)


def alignment_of(item: Item, alignment: int) -> int:
    """The multiple at which the data of an item starts; of one too small to be shared it is 64."""
    is_large = isinstance(item, TensorItem) and item.size_bytes >= LEAST_BYTES
    return alignment if is_large else ALIGNMENT
