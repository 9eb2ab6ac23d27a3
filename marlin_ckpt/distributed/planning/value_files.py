"""A value as a complete file of `torch.save`, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from isal import isal_zlib

from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.formats.torch.writer import on_cpu
from marlin_ckpt.formats.zip.writer import BYTEORDER, write_state
from marlin_ckpt.storage.target import OnStored


def value_file(value: Any) -> bytes:
    """The file of a value.

    Raises:
        UnsavableStateError: it cannot be pickled.
        StorageError: there is not enough memory.
    """
    encoded = encode(value)

    def data() -> Iterator[tuple[str, memoryview]]:
        for key, storage in encoded.storages.items():
            local = on_cpu(storage)
            yield f"data/{key}", memory(local.data_ptr(), local.nbytes())

    target = _InMemory()
    write_state(target, encoded.pickle, BYTEORDER, data(), None)
    return b"".join(target.parts)


class _InMemory:
    """A file that is kept in memory."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def put(self, data: bytes | memoryview, on_stored: OnStored | None = None) -> int:
        """Appends bytes; see `Target.put`."""
        self.parts.append(bytes(data))
        if on_stored is not None:
            on_stored(memoryview(self.parts[-1]))
        return isal_zlib.crc32(self.parts[-1])
