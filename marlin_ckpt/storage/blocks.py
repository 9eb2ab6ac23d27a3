"""What a process remembers of the objects that it wrote, so that the next one can be made of them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol


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
