"""A file in memory, to be written as any other is."""

from isal import isal_zlib

from marlin_ckpt.storage.target import OnStored, Span


class MemoryTarget:
    """A `Target` that keeps what it is given."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def put(
        self,
        data: bytes | memoryview,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,  # noqa: ARG002 - memory shares nothing with a disk
    ) -> int:
        """Appends bytes; see `Target.put`."""
        self._parts.append(bytes(data))
        if on_stored is not None:
            on_stored(memoryview(self._parts[-1]))
        return isal_zlib.crc32(self._parts[-1]) if crc32 is None else crc32

    def content(self) -> bytes:
        """All that it was given."""
        return b"".join(self._parts)
