"""What a file's content is handed to while it is written, whatever store the file is in."""

from collections.abc import Callable
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
