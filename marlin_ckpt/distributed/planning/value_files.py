"""A value as a complete file of `torch.save`, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.formats.torch.writer import on_cpu
from marlin_ckpt.formats.zip.writer import BYTEORDER, write_state
from marlin_ckpt.storage.memory import MemoryTarget


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

    target = MemoryTarget()
    write_state(target, encoded.pickle, BYTEORDER, data(), None)
    return target.content()
