"""Writes one shard."""

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from isal import isal_zlib

from marlin_ckpt.formats.digests import Digesting
from marlin_ckpt.formats.shards import trailer
from marlin_ckpt.formats.shards.items import (
    BLOCK_BYTES,
    Item,
    Place,
    ShardAbout,
    ShardSums,
    TensorItem,
    whole_crc32,
)
from marlin_ckpt.formats.shards.planning import alignment_of, plan_shard
from marlin_ckpt.formats.shards.slots import padded
from marlin_ckpt.formats.shared import ChangedError, Held, Same, Shared
from marlin_ckpt.formats.zip.single import Piece, write_tensor
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.formats.zip.writer import ContainerWriter, telling
from marlin_ckpt.storage.target import OnStored, Span, Target


class Sharing(NamedTuple):
    """How a shard shares bytes with others.

    Attributes:
        alignment: as for `plan_shard`.
        names: the flat names of the tensors, in their order.
        shared: what it shares; gets what others can share with it. None: nothing, and nothing is said of it.
    """

    alignment: int = ALIGNMENT
    names: Sequence[str] = ()
    shared: Shared | None = None


_NOTHING = Sharing()


def write_shard(  # noqa: PLR0913, PLR0917 - all that a shard is made of
    target: Target,
    items: Sequence[Item],
    data: Iterable[memoryview],
    about: ShardAbout,
    on_stored: Iterable[OnStored | None] = (),
    sums: Mapping[int, Sequence[int]] = MappingProxyType({}),
    sharing: Sharing = _NOTHING,
) -> ShardSums:
    """Writes a shard, exactly as `plan_shard` says.

    All checksums are of the bytes that were stored, whatever other threads do meanwhile to the tensors. Of
    those that it shares they are what they were in memory.

    Args:
        target: the empty file; where it is filled from an image in memory, the data may be in its place.
        items: in their order, tensors first.
        data: of the tensors among the items, in their order; each is asked for when its turn comes.
        about: which shard of which save it is.
        on_stored: of the first of these tensors, what is told of their data, as by `Target.put`.
        sums: the CRC32 of each block of tensors that nothing changes any more, by their numbers among the
            items, as far as they are known.
        sharing: what it shares. The digests of its large tensors then stand behind the items, and are no part
            of the plan.

    Raises:
        ChangedError: a tensor that was to be shared could not be, and has changed meanwhile.
        StructureError, ValueError: a value is no file of `torch.save`, or larger than its slot; the data of a
            tensor has another length than its item says, or the save id is longer than 64 characters.
        StorageError: digests are to be made, and xxhash is not installed.
        OSError: the file cannot be written.
    """
    plan = plan_shard(items, sharing.alignment)
    digests = _Digests(sharing)
    summed = _Summed(target)
    container = ContainerWriter(summed)
    crcs: list[int] = []
    tensors, told = iter(data), itertools.chain(on_stored, itertools.repeat(None))
    for number, (one, place) in enumerate(zip(items, plan.places, strict=True)):
        alignment, inner = alignment_of(one, sharing.alignment), place.data_start - place.start
        with container.record(str(number), place.size_bytes, alignment, inner) as record:
            if isinstance(one, TensorItem):
                view = memoryview(next(tensors)).cast("B")
                if len(view) != one.size_bytes:
                    raise ValueError(f"item {number} has {len(view):,} bytes, not {one.size_bytes:,}")
                on_these = telling([next(told), digests.told(number, len(view))])
                if same := digests.same(number):
                    _write_shared(record, one, view, same, on_these)
                    found = [*same.blocks]
                else:
                    found = write_tensor(
                        record, one.pickle, len(view), _pieces(view, sums.get(number)), on_these
                    )
                digests.wrote(number, place, found)
                crcs += found
                del view  # so that it is not held while the next one is read
            else:
                value = memoryview(padded(one.data, place.size_bytes))
                crcs += [record.put(block) for block in _blocks(value)]
    if own := digests.record():
        container.add(*own)
    container.add(trailer.NAME, trailer.encode(about, plan.places, crcs))
    container.close()
    return ShardSums(summed.size_bytes, summed.crc32)


def _write_shared(
    target: Target, item: TensorItem, view: memoryview, same: Same, on_stored: OnStored | None
) -> None:
    """Writes a tensor that another file has.

    Raises:
        ChangedError: what was stored is not what that file has: it could not be shared, and has changed.
    """
    size = same.span.size
    pieces = [Piece(view[:size], same.crc32, same.span)]
    if size < len(view):
        pieces.append(Piece(view[size:]))
    found, whole = write_tensor(target, item.pickle, len(view), pieces, on_stored), 0
    for crc32, piece in zip(found, pieces, strict=True):
        whole = isal_zlib.crc32_combine(whole, crc32, len(piece.data))
    if whole != whole_crc32(same.blocks, len(view)):
        raise ChangedError("has changed in memory since it was compared", "")


def _pieces(view: memoryview, known: Sequence[int] | None) -> Iterator[Piece]:
    """The blocks of a tensor's data, each with its CRC32 as far as they are known."""
    if known is None:
        return map(Piece, _blocks(view))
    return (Piece(block, crc32) for block, crc32 in zip(_blocks(view), known, strict=True))


def _blocks(data: memoryview) -> Iterator[memoryview]:
    return (data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES))


class _Digests:
    """The digests of the tensors of a shard, by their numbers; none where it shares nothing."""

    def __init__(self, sharing: Sharing) -> None:
        self._names, self._shared = sharing.names, sharing.shared
        self._made: Digesting | None = None
        self._wrote: list[tuple[str, Place, Sequence[int]]] = []
        if self._shared is not None:
            known = {name: one.digested for name, one in self._shared.records.items()}
            self._made = Digesting(self._shared.origin, known)

    def told(self, number: int, size: int) -> OnStored | None:
        """What is to be told of the data of a tensor."""
        return self._made.told(self._names[number], size) if self._made else None

    def same(self, number: int) -> Same | None:
        """What another file has of it."""
        return self._shared.records.get(self._names[number]) if self._shared else None

    def wrote(self, number: int, place: Place, blocks: Sequence[int]) -> None:
        """Takes where it is, and the CRC32 of each block of it."""
        if self._shared is not None:
            # Kept from save to save, and a list takes ten times as much.
            self._wrote.append((self._names[number], place, array("I", blocks)))

    def record(self) -> tuple[str, bytes] | None:
        """The record, once all is written."""
        if self._made is None or self._shared is None:
            return None
        own = self._made.record()
        for name, place, blocks in self._wrote:
            if digested := self._made.found.get(name):
                size, crc32 = place.data_bytes, whole_crc32(blocks, place.data_bytes)
                self._shared.held[name] = Held(digested, crc32, place.data_start, size, blocks)
        return own


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
