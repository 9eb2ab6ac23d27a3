"""Turns states into records, and files."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, NoneType
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, location_tag, normalize_storage_type
from torch.storage import TypedStorage, UntypedStorage

from marlin_ckpt.archive.manifest import Manifest
from marlin_ckpt.archive.memory import memory
from marlin_ckpt.archive.writer import write_state
from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.local import publish
from marlin_ckpt.storage.sink import open_sink

_PROTOCOL = 2  # torch.serialization.DEFAULT_PROTOCOL; weights_only reads no later one
# What every state of modules and optimizers holds and imports; of anything else torch is asked whether it
# would load it, at the price of a scan.
_FAMILIAR_TYPES = frozenset(
    {dict, OrderedDict, list, tuple, str, bytes, int, float, bool, NoneType, torch.Tensor, torch.nn.Parameter}
)
# The opcode LONG1 holds 255 bytes with the sign; weights_only does not know LONG4.
_HUGE_BITS = 255 * 8
_FAMILIAR_NAMES = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    }
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A state, pickled.

    Attributes:
        pickle: the record `data.pkl`.
        storages: the storages of its tensors by record key, each once, in the order met.
        is_familiar: whether it holds and imports only what every state does.
        has_huge_integer: whether it holds an integer that `weights_only` does not read.
    """

    pickle: bytes
    storages: dict[str, UntypedStorage]
    is_familiar: bool
    has_huge_integer: bool


class _Pickler(pickle.Pickler):
    """Pickles as `torch.save` does: storages by reference, so that views keep sharing theirs.

    Types are asked, never attributes, since a `unittest.mock` object answers to all of them.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=_PROTOCOL)
        self.storages: dict[str, UntypedStorage] = {}
        self.is_familiar = True
        self.has_huge_integer = False
        self._keys: dict[int, str] = {}
        self._dtypes: dict[int, torch.dtype] = {}

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        kind = type(obj)
        if issubclass(kind, (UntypedStorage, TypedStorage)):
            return self._storage_id(obj)
        if kind not in _FAMILIAR_TYPES:
            self.is_familiar = self.is_familiar and _is_familiar_name(obj)
        elif kind is int and obj.bit_length() >= _HUGE_BITS:
            self.has_huge_integer = True
        return None

    def _storage_id(self, obj: Any) -> tuple[Any, ...]:
        storage: UntypedStorage
        if isinstance(obj, TypedStorage):
            storage, dtype, numel = obj._untyped_storage, obj.dtype, obj._size()  # type: ignore[no-untyped-call]  # noqa: SLF001 - as torch.save
            storage_type: Any = getattr(torch, obj._pickle_storage_type())  # type: ignore[no-untyped-call]  # noqa: SLF001
        else:
            storage, dtype, numel = obj, torch.uint8, obj.nbytes()
            storage_type = normalize_storage_type(type(obj))  # type: ignore[no-untyped-call]
        if storage.device.type != "meta" and storage.data_ptr():
            known = self._dtypes.setdefault(storage.data_ptr(), dtype)
            if known != dtype:
                what = (
                    f"two tensors view the same memory as {known} and as {dtype}; no torch file can hold that"
                )
                raise UnsavableStateError(what)
        key = self._keys.setdefault(storage._cdata, str(len(self._keys)))  # noqa: SLF001
        self.storages[key] = storage
        return ("storage", storage_type, key, location_tag(storage), numel)


def _is_familiar_name(obj: Any) -> bool:
    kind = type(obj)
    if issubclass(kind, type) and issubclass(obj, (UntypedStorage, TypedStorage)):
        return True
    return issubclass(kind, (type, FunctionType)) and (obj.__module__, obj.__qualname__) in _FAMILIAR_NAMES


def encode(state: Any) -> Encoded:
    """Pickles a state.

    Raises:
        UnsavableStateError: something in it cannot be pickled.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(state)
    except UnsavableStateError:
        raise
    except RecursionError as error:
        raise UnsavableStateError("the state is nested too deeply to be pickled") from error
    except Exception as error:  # whatever a __reduce__ of the user's raises
        raise UnsavableStateError(f"the state cannot be pickled: {error}") from error
    return Encoded(file.getvalue(), pickler.storages, pickler.is_familiar, pickler.has_huge_integer)


def write_file(path: PathText, state: Any, manifest: Manifest) -> tuple[str, ...]:
    """Writes a state to a file, atomically and durably.

    Args:
        path: the final name.
        state: anything that can be pickled.
        manifest: without its records, which are filled in here.

    Returns:
        what in it `weights_only` refuses: names that loading it would import; usually none.

    Raises:
        UnsavableStateError: the state cannot be pickled.
        StorageError: the file cannot be written. Either way the old file stands.
    """
    encoded = encode(state)

    def buffers() -> Iterator[tuple[str, memoryview]]:
        for key, storage in encoded.storages.items():
            local = storage if storage.device.type == "cpu" else storage.cpu()  # type: ignore[no-untyped-call]
            yield f"data/{key}", memory(local.data_ptr(), local.nbytes())

    def write(fd: int) -> None:
        expected = len(encoded.pickle) + sum(one.nbytes() for one in encoded.storages.values())
        with open_sink(fd, expected) as sink:
            write_state(sink, encoded.pickle, sys.byteorder.encode(), buffers(), manifest)

    publish(path, write)
    refused = [] if encoded.is_familiar else sorted(get_unsafe_globals_in_checkpoint(os.fspath(path)))
    return (*refused, *(["an integer of more than 255 bytes"] if encoded.has_huge_integer else []))
