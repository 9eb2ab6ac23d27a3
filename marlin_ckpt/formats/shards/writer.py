"""Writes one shard."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from isal import isal_zlib

from marlin_ckpt.formats.shards import trailer
from marlin_ckpt.formats.shards.items import BLOCK_BYTES, Item, ShardAbout, ShardSums, TensorItem
from marlin_ckpt.formats.shards.planning import plan_shard
from marlin_ckpt.formats.shards.slots import padded
from marlin_ckpt.formats.zip.single import write_tensor
from marlin_ckpt.formats.zip.writer import ContainerWriter
from marlin_ckpt.storage.target import OnStored, Span, Target


def write_shard(  # noqa: PLR0913, PLR0917 - all that a shard is made of
    target: Target,
    items: Sequence[Item],
    data: Iterable[memoryview],
    about: ShardAbout,
    on_stored: Iterable[OnStored | None] = (),
    sums: Mapping[int, Sequence[int]] = MappingProxyType({}),
) -> ShardSums:
    """Writes a shard, exactly as `plan_shard` says.

    All checksums are of the bytes that were stored, whatever other threads do meanwhile to the tensors.

    Args:
        target: the empty file; where it is filled from an image in memory, the data may be in its place.
        items: in their order.
        data: of the tensors among the items, in their order; each is asked for when its turn comes.
        about: which shard of which save it is.
        on_stored: of the first of these tensors, what is told of their data, as by `Target.put`.
        sums: the CRC32 of each block of tensors that nothing changes any more, by their numbers among the
            items, as far as they are known.

    Raises:
        StructureError, ValueError: a value is no file of `torch.save`, or larger than its slot; the data of a
            tensor has another length than its item says, or the save id is longer than 64 characters.
        OSError: the file cannot be written.
    """
    plan = plan_shard(items)
    summed = _Summed(target)
    container = ContainerWriter(summed)
    crcs: list[int] = []
    tensors, told = iter(data), itertools.chain(on_stored, itertools.repeat(None))
    for number, (one, place) in enumerate(zip(items, plan.places, strict=True)):
        with container.record(str(number), place.size_bytes) as record:
            if isinstance(one, TensorItem):
                view = memoryview(next(tensors)).cast("B")
                if len(view) != one.size_bytes:
                    raise ValueError(f"item {number} has {len(view):,} bytes, not {one.size_bytes:,}")
                known = sums.get(number)
                each = itertools.repeat(None) if known is None else known
                blocks = zip(_blocks(view), each, strict=known is not None)
                crcs += write_tensor(record, one.pickle, len(view), blocks, next(told))
                del view, blocks  # so that it is not held while the next one is read
            else:
                value = memoryview(padded(one.data, place.size_bytes))
                crcs += [record.put(block) for block in _blocks(value)]
    container.add(trailer.NAME, trailer.encode(about, plan.places, crcs))
    container.close()
    return ShardSums(summed.size_bytes, summed.crc32)


def _blocks(data: memoryview) -> Iterator[memoryview]:
    return (data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES))


class _Summed:
    """A target, and the length and CRC32 of all that it was given."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.size_bytes = self.crc32 = 0

    def put(
        self,
        data: bytes | memoryview,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,
    ) -> int:
        """Appends bytes; see `Target.put`."""
        crc32 = self._target.put(data, on_stored, crc32, same)
        self.crc32 = isal_zlib.crc32_combine(self.crc32, crc32, len(data))
        self.size_bytes += len(data)
        return crc32
