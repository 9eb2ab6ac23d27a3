"""A stretch of a file, and bytes in memory, as a `Source` of their own."""

from marlin_ckpt.storage.source import Source


class Window:
    """A stretch of a file as a `Source` of its own."""

    def __init__(self, source: Source, start: int, size_bytes: int) -> None:
        self._source, self._start = source, start
        self.path, self.size_bytes = source.path, size_bytes

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills a buffer; see `Source.read_into`."""
        room = max(0, min(len(buffer), self.size_bytes - offset))
        return self._source.read_into(self._start + offset, buffer[:room]) if room else 0

    def read(self, offset: int, size: int) -> bytes:
        """Reads bytes; see `Source.read`."""
        return self._source.read(self._start + offset, max(0, min(size, self.size_bytes - offset)))


class Memory:
    """Bytes in memory as a `Source`."""

    def __init__(self, path: str, data: memoryview) -> None:
        self.path, self.size_bytes, self._data = path, len(data), data

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills a buffer; see `Source.read_into`."""
        part = self._data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def read(self, offset: int, size: int) -> bytes:
        """Reads bytes; see `Source.read`."""
        return bytes(self._data[offset : offset + size])
