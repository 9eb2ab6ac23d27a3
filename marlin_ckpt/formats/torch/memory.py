"""Memory that tensors own, as buffers."""

import ctypes
from collections.abc import Callable
from operator import attrgetter

import torch
from torch.storage import UntypedStorage

identity: Callable[[UntypedStorage], int] = attrgetter("_cdata")  # what tells storages from each other


def memory(address: int, size_bytes: int) -> memoryview:
    """A stretch of this process's memory, without a copy; whatever owns it must outlive the view."""
    if not size_bytes:
        return memoryview(b"")
    return memoryview((ctypes.c_ubyte * size_bytes).from_address(address)).cast("B")


def is_freed(tensor: torch.Tensor) -> bool:
    """Whether a tensor has elements, and no memory that they are in any more."""
    has_storage = tensor.layout is torch.strided and (tensor.is_cpu or tensor.is_cuda)
    try:
        return has_storage and not tensor.untyped_storage().nbytes() and bool(tensor.numel())
    except RuntimeError:  # a subclass without memory of its own
        return False
