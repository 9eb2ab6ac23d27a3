"""Where the large records of a file lie in it, each with what is known of its data."""

from typing import NamedTuple

from marlin_ckpt.formats import digests
from marlin_ckpt.formats.digests import LEAST_BYTES, Digested
from marlin_ckpt.formats.shards.reader import read_shard
from marlin_ckpt.formats.zip.reader import read_container
from marlin_ckpt.storage.source import Source


class Placed(NamedTuple):
    """A large record.

    Attributes:
        digested: what is known of its data.
        start: where its data begins in the file.
        size: the length of its data in bytes.
    """

    digested: Digested
    start: int
    size: int


def read(source: Source) -> dict[str, Placed]:
    """Finds the records that have digests, in a file of `torch.save` or in a shard; no data is read.

    Args:
        source: the file.

    Returns:
        the records, by their names; none where the file has no digests.

    Raises:
        BadFileError: the file is damaged, as far as it was read, or is none of ours.
        StorageError: it cannot be read.
    """
    found = digests.read(source)
    if not found:
        return {}
    shard = read_shard(source)
    if shard is not None:  # its digests are in the order of its tensors, which stand before all else
        extents = (one for one in shard.items.values() if one.data_bytes >= LEAST_BYTES)
        places = {name: (one.data_start, one.data_bytes) for name, one in zip(found, extents, strict=False)}
    else:
        container = read_container(source)
        records = container.by_label.items()
        places = {label: (container.data_offsets[one.name], one.size) for label, one in records}
    return {name: Placed(one, *places[name]) for name, one in found.items() if name in places}
