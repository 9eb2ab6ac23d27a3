"""What a file shares with others, and what others can share with it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats import digests
from marlin_ckpt.formats.digests import Digested, Origin
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.storage.target import Earlier, Span


def alignment_for(sizes: Mapping[str, int], block: int) -> int:
    """The multiple at which the data of a file starts: a block, unless that takes more than sharing saves.

    Each record takes up to a block more then. With very many small ones that is most of a file.

    Args:
        sizes: the lengths of the records in bytes, by their names.
        block: what shared ranges are multiples of; 64 where nothing can be shared.
    """
    large = sum(size for size in sizes.values() if size >= digests.LEAST_BYTES)
    return block if large > len(sizes) * block else ALIGNMENT


class ChangedError(MarlinError):
    """What was to be shared has changed: in the file that has it, or in memory."""


class Held(NamedTuple):
    """A large record as a file holds it.

    Attributes:
        digested: what is known of it.
        crc32: of it, as the one who wrote it had it in memory.
        start: where its data begins in the file.
        size: the length of its data in bytes.
        blocks: in a shard, the CRC32 of each block of it (`formats.shards.items.BLOCK_BYTES`).
    """

    digested: Digested
    crc32: int
    start: int
    size: int
    blocks: Sequence[int] = ()


class Same(NamedTuple):
    """A record that another file holds, too.

    Attributes:
        span: where; of its first bytes alone where others could still change in memory.
        crc32: of these.
        digested: what is known of all.
        blocks: those of the other file; see `Held`.
    """

    span: Span
    crc32: int
    digested: Digested
    blocks: Sequence[int] = ()


class Shared(NamedTuple):
    """What a file shares.

    Attributes:
        alignment: the multiple at which its data starts.
        origin: of all that it writes.
        records: those that it shares, by their names: `data/0`, or in a shard the flat names of tensors.
        held: gets all large records that it holds, once they are written.
        earlier: the object of which a store copies what is the same in its successor; of a local file None.
    """

    alignment: int
    origin: Origin
    records: Mapping[str, Same]
    held: dict[str, Held]
    earlier: Earlier | None = None

    @property
    def size_bytes(self) -> int | None:
        """How many bytes it shares; None where the file system lets it share none."""
        is_able = self.alignment != ALIGNMENT
        return sum(one.span.size for one in self.records.values()) if is_able else None
