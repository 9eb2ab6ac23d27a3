"""Writes a state dict alone, as `torch.save(module.state_dict(), file)` would: tensors by their names."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle.stubs import Storage, Stub, Writer
from marlin_ckpt.formats.values import dtypes
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.formats.zip.writer import write_state
from marlin_ckpt.storage.target import Target

_PROTOCOL = 2  # torch.serialization.DEFAULT_PROTOCOL
# The dtypes that are pickled by the type of their storage, torch.storage.
_STORAGE_TYPES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage",
    "bfloat16": "BFloat16Storage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage", "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}  # fmt: skip
# Those that are pickled themselves, torch.storage._new_dtypes. Quantized tensors have a scale besides.
_NEW_DTYPES = {"uint16", "uint32", "uint64"} | {name for name in dtypes.DTYPES if name.startswith("float8")}


class _Names:
    """The stubs for the names that the pickle imports, one for each."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], type[Stub]] = {}

    def get(self, module: str, name: str) -> type[Stub]:
        if (module, name) not in self._made:
            self._made[module, name] = type("Stub", (Stub,), {"name": (module, name), "__slots__": ()})
        return self._made[module, name]


def state_pickle(drafts: Iterable[Draft]) -> tuple[bytes, list[Draft]]:
    """Pickles a state dict.

    Args:
        drafts: each with a name of its own; those that are the same as another share its storage.

    Returns:
        the record `data.pkl`, and the drafts in the order of the records `data/0`, `data/1`, ...

    Raises:
        UnsavableStateError: a name cannot be pickled, or a dtype makes no plain tensor.
    """
    names = _Names()
    stored: dict[str, Draft] = {}
    keys: dict[str, str] = {}
    state: dict[str, Stub] = {}
    listed = list(drafts)
    by_name = {one.name: one for one in listed}
    for one in listed:
        if one.dtype not in _STORAGE_TYPES and one.dtype not in _NEW_DTYPES:
            raise UnsavableStateError(f"no plain tensor is of the dtype {one.dtype}, as {one.name} is")
        kept = by_name[one.same_as or one.name]
        key = keys.setdefault(kept.name, str(len(keys)))
        stored[key] = kept
        state[one.name] = _tensor(names, one, key)
    file = io.BytesIO()
    try:
        Writer(file, _PROTOCOL).dump(state)
    except UnicodeEncodeError as error:
        raise UnsavableStateError("a tensor's name is no text that UTF-8 can hold") from error
    return file.getvalue(), list(stored.values())


def _tensor(names: _Names, one: Draft, key: str) -> Stub:
    """A tensor as `torch.Tensor.__reduce_ex__` describes it, contiguous and at its storage's start."""
    strides = []
    step = 1
    for length in reversed(one.shape):
        strides.append(step)
        step *= max(1, length)
    shape, stride = tuple(one.shape), tuple(reversed(strides))
    storage_type = _STORAGE_TYPES.get(one.dtype)
    kind = names.get("torch.storage", "UntypedStorage")
    if storage_type is not None:
        kind = names.get("torch", storage_type)
    size = one.size_bytes if storage_type is None else one.size_bytes // one.item_bytes
    arguments: tuple[Any, ...] = (
        Storage(("storage", kind, key, "cpu", size)),
        0,
        shape,
        stride,
        False,
        OrderedDict(),
    )
    if storage_type is not None:
        return names.get("torch._utils", "_rebuild_tensor_v2")(*arguments)
    return names.get("torch._utils", "_rebuild_tensor_v3")(*arguments, names.get("torch", one.dtype))


def write(target: Target, drafts: Iterable[Draft], about: Manifest | None) -> None:
    """Fills an empty file with a state dict that `torch.load` reads with `weights_only`.

    Args:
        target: the empty file.
        drafts: each with a name of its own.
        about: the manifest, without its records.

    Raises:
        UnsavableStateError: as `state_pickle`.
        OSError: the file cannot be written.
    """
    pickle, stored = state_pickle(drafts)
    data = ((f"data/{key}", one.read()) for key, one in enumerate(stored))
    write_state(target, pickle, b"little", data, about)
