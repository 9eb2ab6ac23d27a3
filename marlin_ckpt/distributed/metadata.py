"""`.metadata`, torch's pickle in a sharded checkpoint: of its own classes, and of nothing else."""

from __future__ import annotations

import contextlib
import gc
import io
import pickle
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata

from marlin_ckpt.errors import CorruptCheckpointError, UnsafeCheckpointError

NAME = ".metadata"

_VALUES = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    _VALUES: "Metadata TensorStorageMetadata BytesStorageMetadata TensorProperties ChunkStorageMetadata "
    "MetadataIndex StorageMeta _MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem": "_StorageInfo",
    "torch.distributed.checkpoint.hf_storage": "_HFStorageInfo",
    "torch": "Size",
    "collections": "OrderedDict",
    "pathlib": "PosixPath PurePosixPath Path",
    "pathlib._local": "PosixPath PurePosixPath Path",
}
_LAYOUT = ("torch.serialization", "_get_layout")
_NAMES = frozenset((module, name) for module, names in _ALLOWED.items() for name in names.split())


def to_bytes(whole: Metadata) -> bytes:
    """The bytes of the file; equal metadata that was made in the same way gives equal bytes."""
    return pickle.dumps(whole, protocol=pickle.HIGHEST_PROTOCOL)


def from_bytes(data: bytes, path: str) -> Metadata:
    """Reads a `.metadata`, of ours or of torch's own writer, and runs nothing that it names.

    Args:
        data: the whole file.
        path: of it, for messages.

    Raises:
        UnsafeCheckpointError: it names what no metadata has.
        CorruptCheckpointError: it is no metadata, or damaged.
    """
    try:
        with _unchanged_classes(), _without_collector():
            found = _Reader(io.BytesIO(data), path).load()
    except UnsafeCheckpointError:
        raise
    except Exception as error:  # whatever damaged bytes make of a pickle
        what = f"not the metadata of a distributed checkpoint: {type(error).__name__}"
        raise CorruptCheckpointError(what, path) from error
    if type(found) is not Metadata or not _has_parts(found):
        raise CorruptCheckpointError("not the metadata of a distributed checkpoint", path)
    return found


def _has_parts(found: Metadata) -> bool:
    parts = vars(found)
    return all(type(parts.get(name)) is dict for name in ("state_dict_metadata", "storage_data"))


def _layout(name: str) -> torch.layout:
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.layout):
        raise TypeError("no layout")
    return found


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Keeps the cyclic collector from looking at a million new objects again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _unchanged_classes() -> Iterator[None]:
    """Undoes what a pickle has set on the classes that it names, as its opcode BUILD can.

    Raises:
        ValueError: it has set something.
    """
    classes = [one for home in (metadata, filesystem) for one in vars(home).values() if isinstance(one, type)]
    named = [one for one in classes if (one.__module__, one.__qualname__) in _NAMES]
    before = [dict(vars(one)) for one in named]
    try:
        yield
    finally:
        changed = [(one, was) for one, was in zip(named, before, strict=True) if dict(vars(one)) != was]
        for one, was in changed:
            for name in vars(one).keys() - was.keys():
                delattr(one, name)
            for name in was.keys() - {"__dict__", "__weakref__"}:
                if vars(one).get(name) is not was[name]:
                    setattr(one, name, was[name])
    if changed:
        raise ValueError("it sets attributes of classes")


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, path: str) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in _NAMES:
            return super().find_class(module_name, global_name)
        if (module_name, global_name) == _LAYOUT:
            return partial(_layout)  # a new one, so that nothing can be set on it
        one = getattr(torch, global_name, None) if module_name == "torch" else None
        if isinstance(one, (torch.dtype, torch.layout)):
            return one
        name = f"{module_name}.{global_name}"[:200]
        what = f"refused: it would import {name}, which no metadata of torch has"
        raise UnsafeCheckpointError(what, self._path, names=(name,))
