"""What formats read from: the bytes of one object of a store, at any offset."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


class Source(Protocol):
    """One object of a store, open for reading.

    Attributes:
        path: its name, for messages.
        size_bytes: its length when it was opened.
    """

    path: str
    size_bytes: int

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills a buffer with the bytes from an offset on; what the system reads in pieces is put together.

        Args:
            offset: of the first byte.
            buffer: writable memory.

        Returns:
            how many bytes were read: fewer than the buffer holds only where the object ends.

        Raises:
            StorageError: they cannot be read.
        """

    def read(self, offset: int, size: int) -> bytes:
        """Reads up to `size` bytes, fewer only where the object ends; raises as `read_into`."""


@runtime_checkable
class _InStretches(Protocol):
    """A source that is faster where it knows what is read next."""

    def stretch(self, offset: int, size: int, *, is_own: bool = False) -> AbstractContextManager[Source]:
        """As the function below."""


@runtime_checkable
class _Far(Protocol):
    """A source that takes long to begin to answer."""

    def read_each(
        self, items: Iterable[Item], place: Callable[[Item], tuple[int, int]]
    ) -> Iterator[tuple[Item, bytes]]:
        """As the function below."""


def stretch(
    source: Source, offset: int, size: int, *, is_own: bool = False
) -> AbstractContextManager[Source]:
    """The same source for a reader that goes through a stretch of it, piece by piece and in order.

    An object in a store is then asked for once, and not for each piece; of a file the kernel reads ahead.

    Args:
        source: that is read.
        offset: where the stretch begins.
        size: its length.
        is_own: whether no other rank reads it; else those of one machine share what one of them has read.
    """
    return (
        source.stretch(offset, size, is_own=is_own)
        if isinstance(source, _InStretches)
        else nullcontext(source)
    )


def read_each(
    source: Source, items: Iterable[Item], place: Callable[[Item], tuple[int, int]]
) -> Iterator[tuple[Item, bytes]]:
    """Reads a small stretch for each item, as `Source.read` does.

    An object in a store is asked for several at a time, and for those that are near one another at once.

    Args:
        source: that is read.
        items: in the order in which their stretches lie.
        place: where the stretch of an item begins, and how long it is.

    Yields:
        each item, and its bytes.

    Raises:
        StorageError: they cannot be read.
    """
    if isinstance(source, _Far):
        yield from source.read_each(items, place)
    else:
        for item in items:
            yield item, source.read(*place(item))


class SourceFile(io.RawIOBase):
    """A source as a file object, for readers that want one; `io.BufferedReader` makes it fast."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves to an offset, as `io.IOBase.seek`."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size_bytes}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fills a buffer from the present offset on."""
        read = self._source.read_into(self._at, memoryview(buffer).cast("B"))
        self._at += read
        return read
