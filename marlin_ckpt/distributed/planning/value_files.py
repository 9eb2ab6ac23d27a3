"""A value as a complete file of `torch.save`, in memory."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.formats.torch.writer import on_cpu
from marlin_ckpt.formats.zip.writer import BYTEORDER, write_state
from marlin_ckpt.storage.memory import MemoryTarget

_SMALL_BYTES = 4096


def value_file(value: Any) -> bytes:
    """The file of a value.

    Raises:
        UnsavableStateError: it cannot be pickled.
        StorageError: there is not enough memory.
    """
    encoded = encode(value)
    if not encoded.storages and len(encoded.pickle) < _SMALL_BYTES:
        return _small(encoded.pickle)

    def data() -> Iterator[tuple[str, memoryview]]:
        for key, storage in encoded.storages.items():
            local = on_cpu(storage)
            yield f"data/{key}", memory(local.data_ptr(), local.nbytes())

    return _written(encoded.pickle, data())


@functools.lru_cache(maxsize=1024)
def _small(pickle: bytes) -> bytes:
    """The file of a value without tensors: most values are what they were at the save before."""
    return _written(pickle, ())


def _written(pickle: bytes, data: Iterable[tuple[str, memoryview]]) -> bytes:
    target = MemoryTarget()
    write_state(target, pickle, BYTEORDER, data, None)
    return target.content()
