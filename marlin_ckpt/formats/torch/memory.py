"""Memory that tensors own, as buffers."""

import ctypes
from collections.abc import Callable
from operator import attrgetter

from torch.storage import UntypedStorage

identity: Callable[[UntypedStorage], int] = attrgetter("_cdata")  # what tells storages from each other


def memory(address: int, size_bytes: int) -> memoryview:
    """A stretch of this process's memory, without a copy; whatever owns it must outlive the view."""
    if not size_bytes:
        return memoryview(b"")
    return memoryview((ctypes.c_ubyte * size_bytes).from_address(address)).cast("B")
