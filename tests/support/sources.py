"""Sources that no file is behind."""

from __future__ import annotations

from collections.abc import Callable


class SparseSource:
    """A source that holds some pieces, and zeros everywhere else.

    Args:
        pieces: bytes by the offset of the first; they do not overlap.
        size_bytes: the length that it says it has; where it is longer than the pieces, zeros follow.
        on_read: called before each read with its offset and size; may raise.
    """

    def __init__(
        self,
        pieces: dict[int, bytes],
        size_bytes: int | None = None,
        on_read: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self.path = "memory"
        self.pieces = pieces
        self.end = max((at + len(data) for at, data in pieces.items()), default=0)
        self.size_bytes = self.end if size_bytes is None else size_bytes
        self._on_read = on_read

    def read(self, offset: int, size: int) -> bytes:
        """Reads bytes; see `Source.read`."""
        size = max(0, min(size, self.end - offset))
        self._on_read(offset, size)
        found = bytearray(size)
        for at, data in self.pieces.items():
            first, end = max(offset, at), min(offset + size, at + len(data))
            if first < end:
                found[first - offset : end - offset] = data[first - at : end - at]
        return bytes(found)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills a buffer; see `Source.read_into`."""
        data = self.read(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def bytes_source(data: bytes) -> SparseSource:
    """A source that holds just these bytes."""
    return SparseSource({0: data})
