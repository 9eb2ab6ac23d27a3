"""Says of a state everything that a load must bring back, so that two states can be compared."""

from __future__ import annotations

import collections
import copyreg
import datetime
import enum
import functools
import hashlib
import random
import re
import struct
import types
import uuid
from typing import Any

import numpy as np
import torch

_NAMED = (type, types.FunctionType, types.BuiltinFunctionType, torch.dtype, torch.layout, torch.memory_format)
_SHOWN = (
    str, int, bytes, bytearray, range, slice, re.Pattern, uuid.UUID, datetime.date, datetime.time,
    datetime.timedelta, torch.device, torch.qscheme, type(None), type(...), type(NotImplemented),
)  # fmt: skip
_RAGGED = re.compile(r"\bj[0-9]+\b")  # torch numbers the ragged dimensions of a process
_SHORT_BYTES = 256


def describe(state: Any) -> list[Any]:
    """Types, order, bits, memory layout, and which parts are one object or share one storage."""
    return _Teller().told_of(state)


def _short(content: bytes) -> Any:
    return content if len(content) <= _SHORT_BYTES else hashlib.sha256(content).hexdigest()


def _content(storage: torch.UntypedStorage) -> Any:
    if storage.device.type == "meta" or not storage.nbytes() or not storage.data_ptr():
        return None
    return _short(torch.empty(0, dtype=torch.uint8).set_(storage.cpu()).numpy().tobytes())


class _Teller:
    def __init__(self) -> None:
        self._lines: list[Any] = []
        # The objects themselves are kept too: parts made for the telling must not hand on their id.
        self._seen: dict[int, tuple[int, Any]] = {}
        self._storages: dict[int, int] = {}
        self._memories: dict[int, int] = {}

    def told_of(self, state: Any) -> list[Any]:
        self._tell(state)
        return self._lines

    def _tell(self, value: Any) -> None:
        kind = type(value)
        say = self._lines.append
        if isinstance(value, _NAMED):
            say((kind, getattr(value, "__module__", ""), getattr(value, "__qualname__", str(value))))
        elif kind in (float, complex):
            parts = (value.real, value.imag) if kind is complex else (value,)
            say((kind, *(struct.pack(">d", part) for part in parts)))  # NaN payloads, and the sign of zero
        elif isinstance(value, torch.SymInt):
            say(kind)  # a ragged dimension
        elif isinstance(value, enum.Enum):
            say((kind, value.name))
        elif kind in _SHOWN or kind in (bool, datetime.datetime):
            say((kind, repr(value)))
        elif isinstance(value, np.generic):
            say((kind, value.dtype, value.tobytes()))
        elif kind is tuple and not value:
            say((tuple, 0))
        elif id(value) in self._seen:
            say(("again", self._seen[id(value)][0]))
        else:
            self._seen[id(value)] = (len(self._seen), value)
            self._tell_object(value)

    def _tell_object(self, value: Any) -> None:
        kind = type(value)
        say = self._lines.append
        if isinstance(value, torch.Tensor):
            self._tell_tensor(value)
        elif isinstance(value, torch.storage.TypedStorage):
            say((kind, value.dtype, value._size()))
            self._tell_storage(value._untyped_storage)
        elif isinstance(value, torch.UntypedStorage):
            self._tell_storage(value)
        elif isinstance(value, np.ndarray):
            say((kind, value.dtype.descr, value.shape, value.strides, value.flags.writeable))
            self._tell(value.tolist()) if value.dtype.hasobject else say(_short(value.tobytes()))
        elif isinstance(value, torch.Generator):
            say((kind, value.device, value.initial_seed()))
            self._tell(value.get_state())
        elif isinstance(value, random.Random):
            say((kind, value.getstate()))
        elif isinstance(value, functools.partial):
            say(kind)
            self._tell((value.func, value.args, value.keywords))
        elif isinstance(value, (str, int, float)):  # subclasses with attributes
            say((kind, kind.__mro__[1].__repr__(value)))
        else:
            self._tell_container(value)
        self._tell_attributes(value)

    def _tell_container(self, value: Any) -> None:
        kind = type(value)
        say = self._lines.append
        if isinstance(value, dict):
            say((kind, len(value)))
            for key, part in value.items():
                self._tell(key)
                self._tell(part)
            self._tell(getattr(value, "default_factory", None))
        elif isinstance(value, (list, tuple, collections.deque)):
            say((kind, len(value), getattr(value, "maxlen", None)))
            for part in value:
                self._tell(part)
        elif isinstance(value, (set, frozenset)):
            say((kind, len(value)))
            for part in sorted(value, key=lambda one: repr(describe(one))):
                self._tell(part)
        else:
            say(kind)

    def _tell_attributes(self, value: Any) -> None:
        attributes = dict(getattr(value, "__dict__", None) or {})
        for name in copyreg._slotnames(type(value)):
            if hasattr(value, name) and name not in attributes:
                attributes[name] = getattr(value, name)
        self._lines.append(("attributes", len(attributes)))
        for name, part in attributes.items():
            self._lines.append(name)
            self._tell(part)

    def _tell_tensor(self, tensor: torch.Tensor) -> None:
        say = self._lines.append
        say((type(tensor), tensor.dtype, tensor.device, tensor.requires_grad, tensor.is_leaf))
        if torch.nn.parameter.is_lazy(tensor):
            return
        is_strided_nest = tensor.is_nested and tensor.layout is torch.strided  # has no shape
        shape = () if is_strided_nest else _RAGGED.sub("ragged", str(tensor.shape))
        say((tensor.layout, shape, tensor.is_quantized, tensor.is_nested, tensor.grad is None))
        if hasattr(tensor, "__tensor_flatten__"):
            for name in tensor.__tensor_flatten__()[0]:
                say(name)
                self._tell(getattr(tensor, name))
        elif tensor.layout is torch.sparse_coo:
            say(tensor.is_coalesced())
            self._tell([tensor._indices(), tensor._values()])
        elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
            self._tell([tensor.crow_indices(), tensor.col_indices(), tensor.values()])
        elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
            self._tell([tensor.ccol_indices(), tensor.row_indices(), tensor.values()])
        elif tensor.is_nested:
            places = tensor._nested_tensor_strides(), tensor._nested_tensor_storage_offsets()
            self._tell([tensor.values(), tensor._nested_tensor_size(), *places])
        else:
            say((tensor.stride(), tensor.storage_offset(), tensor.is_conj(), tensor.is_neg()))
            if tensor.is_quantized:
                self._tell_quantizer(tensor)
            if torch._C._has_storage(tensor):
                self._tell_storage(tensor.untyped_storage())

    def _tell_quantizer(self, tensor: torch.Tensor) -> None:
        scheme = tensor.qscheme()
        self._lines.append(scheme)
        if scheme == torch.per_tensor_affine:
            self._tell((tensor.q_scale(), tensor.q_zero_point()))
        else:
            scales = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
            self._tell((*scales, tensor.q_per_channel_axis()))

    def _tell_storage(self, storage: torch.UntypedStorage) -> None:
        number = memory = None
        # torch.load keeps no identity of a storage without bytes.
        if storage.nbytes() and storage.device.type != "meta":
            number = self._storages.setdefault(storage._cdata, len(self._storages))
            memory = self._memories.setdefault(storage.data_ptr(), len(self._memories))
        self._lines.append((type(storage), storage.nbytes(), storage.device, number, memory))
        self._lines.append(_content(storage))
