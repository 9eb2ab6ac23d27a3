"""What a file's content is handed to while it is written, whatever store the file is in."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

OnStored = Callable[[memoryview], None]


class Span(NamedTuple):
    """Where bytes lie in a file of the store that is durable.

    Attributes:
        source: the file's descriptor, open for reading.
        start: the offset of the first of them.
        size: how many they are.
    """

    source: int
    start: int
    size: int


class Hash(Protocol):
    """Makes a digest of 128 bits: equal data has equal ones, and other data has others."""

    def update(self, data: memoryview, /) -> None:
        """Takes the next bytes."""

    def digest(self) -> bytes:
        """The digest of all bytes since the last `reset`."""

    def reset(self) -> None:
        """Begins anew."""


class Blocks(NamedTuple):
    """An object that this process wrote, and what was in it.

    Attributes:
        name: of the object in its store.
        etag: the version that this process has committed.
        digests: of its blocks, by where they begin.
        starts: where a block begins, by its digest.
    """

    name: str
    etag: str
    digests: Mapping[int, bytes]
    starts: Mapping[bytes, int]


class Earlier:
    """The last object that a process wrote to a folder; see `S3Store.publish`.

    Attributes:
        hashing: makes what digests are made by.
        last: what was written last, which others may have replaced or removed since; None: nothing that the
            next one may be made of.
    """

    def __init__(self, hashing: Callable[[], Hash]) -> None:
        """Remembers nothing yet."""
        self.hashing = hashing
        self.last: Blocks | None = None


class Target(Protocol):
    """A file that is written from its front to its end. A store makes it, and publishes what it was given."""

    def put(
        self,
        data: bytes | memoryview,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,
    ) -> int:
        """Appends bytes, of any number; the memory may be changed once this returns.

        Args:
            data: contiguous bytes.
            on_stored: told of the bytes that are stored, piece by piece in their order, when they are in the
                processor's cache; it may look at the memory until it returns.
            crc32: that of the data, where nothing changes them any more and it is known.
            same: where the very same bytes lie, with `crc32` alone. What can shares their place on the disk
                in place of writing: of the data the whole blocks of the file system, if they begin at one.

        Returns:
            the CRC32 of the bytes that are stored. Where another thread changes `data` meanwhile, they are
            neither what it was before nor what it is afterwards; the CRC holds for them all the same.

        Raises:
            OSError: these or earlier bytes cannot be written.
        """


Fill = Callable[[Target], None]


def whole(data: bytes) -> Fill:
    """Fills an object with bytes that are there already."""

    def fill(target: Target) -> None:
        target.put(data)

    return fill
