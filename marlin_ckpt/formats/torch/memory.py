"""Memory that tensors own, as buffers."""

import ctypes
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch.storage import UntypedStorage

# Of Python's C interface. To make an array type of ctypes for each new length took fifty times as long.
_view: Any = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_WRITABLE = 0x200  # PyBUF_WRITE

identity: Callable[[UntypedStorage], int] = attrgetter("_cdata")  # what tells storages from each other


def memory(address: int, size_bytes: int) -> memoryview:
    """A stretch of this process's memory, without a copy; whatever owns it must outlive the view."""
    return _view(address, size_bytes, _WRITABLE) if size_bytes else memoryview(b"")


def is_freed(tensor: torch.Tensor) -> bool:
    """Whether a tensor has elements, and no memory that they are in any more."""
    has_storage = tensor.layout is torch.strided and (tensor.is_cpu or tensor.is_cuda)
    try:
        return has_storage and not tensor.untyped_storage().nbytes() and bool(tensor.numel())
    except RuntimeError:  # a subclass without memory of its own
        return False
