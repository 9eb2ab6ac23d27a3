"""Reads the `.metadata` of torch's Distributed Checkpoint, which is a pickle, without running any of it.

Source: `torch.distributed.checkpoint.metadata` and `_StorageInfo` in its filesystem.py, torch 1.13 to 2.13.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

from marlin_ckpt.errors import CorruptCheckpointError, UnsafeCheckpointError
from marlin_ckpt.formats.budget import LARGEST_PICKLE, Budget
from marlin_ckpt.formats.layouts.dcp.columns.columns import Columns
from marlin_ckpt.formats.layouts.dcp.columns.reading import is_of_columns, read_columns
from marlin_ckpt.formats.layouts.dcp.pieces import (
    MOST_IN_PATH,
    Chunk,
    Described,
    Path,
    Place,
    Sizes,
    leads_outside,
)
from marlin_ckpt.formats.pickle import permissions
from marlin_ckpt.formats.pickle.reader import unpickling
from marlin_ckpt.formats.pickle.stubs import Global, Stub, StubReader
from marlin_ckpt.storage.source import Source

_VALUES = "torch.distributed.checkpoint.metadata"
_PLANS = "torch.distributed.checkpoint.planner"
_BEFORE_2_3 = "torch.distributed._shard.sharded_tensor.metadata"
_ALLOWED = {
    _VALUES: "Metadata TensorStorageMetadata BytesStorageMetadata TensorProperties ChunkStorageMetadata "
    "MetadataIndex StorageMeta _MEM_FORMAT_ENCODING",
    _BEFORE_2_3: "TensorProperties MEM_FORMAT_ENCODING",
    _PLANS: "SavePlan WriteItem WriteItemType TensorWriteData BytesIOWriteData",  # Megatron-Core keeps plans
    "torch.distributed.checkpoint.filesystem": "_StorageInfo",
    "torch.serialization": "_get_layout",
    "collections": "OrderedDict",
    "pathlib": "PosixPath PurePosixPath WindowsPath PureWindowsPath Path",
    "pathlib._local": "PosixPath PurePosixPath WindowsPath PureWindowsPath Path",
}
_NAMES = frozenset((module, name) for module, names in _ALLOWED.items() for name in names.split())
_MOST_DIMENSIONS = 64  # torch's own limit
_LIMIT = 2**63
LARGEST_OF_COLUMNS = 1 << 30  # bytes; that of twelve million pieces
_ENTRY = 150  # of the budget, for what is made of an entry


class Metadata(NamedTuple):
    """What a `.metadata` says.

    Attributes:
        tensors: by their flat names.
        values: the flat names of what is no tensor.
        places: of each item, by its flat name and, of a tensor, the chunk's offsets.
        paths: the keys that lead to what has a flat name; none where the names were not flattened.
        budget: what is left for making a tree of it.
    """

    tensors: dict[str, Described]
    values: tuple[str, ...]
    places: dict[tuple[str, Sizes], Place]
    paths: dict[str, Path]
    budget: Budget


def read_metadata(source: Source) -> Metadata:
    """Reads a `.metadata`.

    Raises:
        UnsafeCheckpointError: it names what no metadata has; nothing of it is run.
        ExcessError: it would take more time or memory than any of its length.
        CorruptCheckpointError: it is no such metadata, or damaged.
        StorageError: it cannot be read.
    """
    data = whole_metadata(source)
    columns = read_columns(data)
    if columns is not None:
        return of_columns(columns, len(data), source.path)
    file = io.BytesIO(data)
    budget = Budget(file.tell, source.path)
    if len(data) > LARGEST_PICKLE:
        _refuse(len(data), source.path)
    with unpickling(source.path):
        return _plain(_Reader(file, budget, source.path).load(), budget, source.path)


def whole_metadata(source: Source) -> bytes:
    """The bytes of a `.metadata`.

    Raises:
        ExcessError: they are more than are read.
        StorageError: they cannot be read.
    """
    if is_too_large(source):
        _refuse(source.size_bytes, source.path)
    return source.read(0, source.size_bytes)


def is_too_large(source: Source) -> bool:
    """Whether a `.metadata` has more bytes than are read of one that begins so."""
    return source.size_bytes > (LARGEST_OF_COLUMNS if is_of_columns(source) else LARGEST_PICKLE)


def _refuse(size_bytes: int, path: str) -> None:
    Budget(lambda: 0, path).refuse(f"its pickle has {size_bytes:,} bytes")


class _Reader(StubReader):
    """Makes stubs of what metadata is made of, and refuses all else."""

    def __init__(self, file: io.BytesIO, budget: Budget, path: str) -> None:
        super().__init__(file, budget)
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> Global:
        is_type = module_name == "torch" and f"torch.{global_name}" in permissions.ALLOWED
        if not is_type and (module_name, global_name) not in _NAMES:
            name = f"{module_name}.{global_name}"[:200]
            what = f"refused: it would import {name}, which no metadata of torch has"
            raise UnsafeCheckpointError(what, self._path, names=(name,))
        return super().find_class(module_name, global_name)

    def call(self, called: Any, arguments: tuple[Any, ...]) -> Any:
        if type(called) is Global and called.name == ("torch", "Size") and len(arguments) == 1:
            return arguments[0]
        return super().call(called, arguments)


def of_columns(columns: Columns, size_bytes: int, path: str) -> Metadata:
    """What was read as columns, as objects.

    Args:
        columns: what was read.
        size_bytes: how many bytes it was read from.
        path: of the file, for messages.
    """
    texts, places, sizes = columns.texts, columns.places, dict(columns.sizes())
    budget = Budget(lambda: size_bytes, path)
    budget.charge(_ENTRY * (len(texts) + 2 * len(places.name)))
    tensors = {}
    for name, one in columns.tensors.items():
        numbers = zip(one.offsets.tolist(), one.sizes.tolist(), strict=True)
        chunks = tuple(Chunk(sizes[start], sizes[size]) for start, size in numbers)
        tensors[name] = Described(one.dtype, one.shape, chunks)
    rows = zip(*(column.tolist() for column in places), strict=True)
    stored = {
        (texts[name], sizes.get(offsets, ())): Place(texts[file], start, size)
        for name, offsets, file, start, size in rows
    }
    paths = {name: path for name, path in columns.paths.items() if len(path) <= MOST_IN_PATH}
    return Metadata(tensors, tuple(columns.values), stored, paths, budget)


class _OddError(Exception):
    """A part of the metadata is not of the kind that stands there; its text says which."""


def _plain(root: Any, budget: Budget, path: str) -> Metadata:
    try:
        state = _state(root, "Metadata")
        described = _of_type(state.get("state_dict_metadata"), dict)
        stored = _of_type(state.get("storage_data"), dict)
        paths = state.get("planner_data")
        budget.expect_nodes(len(described))
        tensors, values = {}, []
        for name, one in described.items():
            budget.charge(_ENTRY)
            if type(one) is Stub and one.name == (_VALUES, "BytesStorageMetadata"):
                values.append(_of_type(name, str))
            else:
                tensors[_of_type(name, str)] = _tensor(one, budget)
        places = dict(_places(stored, budget))
        return Metadata(tensors, tuple(values), places, _paths(paths, budget), budget)
    except _OddError as error:
        what = f"not the metadata of a distributed checkpoint: {error}"
        raise CorruptCheckpointError(what, path) from error


def _of_type(value: Any, kind: type[Any]) -> Any:
    if type(value) is Stub and kind is dict and value.name == ("collections", "OrderedDict"):
        return dict(value.pairs)
    if type(value) is not kind:
        raise _OddError(f"a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _state(value: Any, name: str) -> dict[str, Any]:
    if type(value) is not Stub or value.name[1] != name:
        raise _OddError(f"no {name}")
    return dict(_of_type(value.state, dict))


def _tensor(one: Any, budget: Budget) -> Described:
    state = _state(one, "TensorStorageMetadata")
    properties = state.get("properties")
    if type(properties) is not Stub or properties.name[1] != "TensorProperties":
        raise _OddError("no TensorProperties")
    about = properties.state
    dtype = (
        about.get("dtype")
        if isinstance(about, dict)
        else about[0]
        if isinstance(about, tuple) and about
        else 0
    )
    if type(dtype) is not Global:
        raise _OddError("a tensor without a dtype")
    chunks = _of_type(state.get("chunks"), list)
    budget.charge(_ENTRY * len(chunks))
    return Described(dtype.name[1], _sizes(state.get("size")), tuple(map(_chunk, chunks)))


def _chunk(one: Any) -> Chunk:
    state = _state(one, "ChunkStorageMetadata")
    return Chunk(_sizes(state.get("offsets")), _sizes(state.get("sizes")))


def _sizes(value: Any) -> Sizes:
    if not isinstance(value, (tuple, list)) or len(value) > _MOST_DIMENSIONS:
        raise _OddError("sizes that are none")
    if any(type(one) is not int or not 0 <= one < _LIMIT for one in value):
        raise _OddError("sizes that are no sizes of a tensor")
    return tuple(value)


def _places(stored: dict[Any, Any], budget: Budget) -> Iterator[tuple[tuple[str, Sizes], Place]]:
    for index, info in stored.items():
        budget.charge(_ENTRY)
        about, place = _state(index, "MetadataIndex"), _state(info, "_StorageInfo")
        offset = about.get("offset")
        key = _of_type(about.get("fqn"), str), () if offset is None else _sizes(offset)
        packing = place.get("transform_descriptors") or ()
        if not isinstance(packing, (list, tuple)):
            raise _OddError("a transformation without a name")
        file: str = _of_type(place.get("relative_path"), str)
        start, size = (_of_type(place.get(one), int) for one in ("offset", "length"))
        if leads_outside(file):
            raise _OddError(f"it names a file outside of the folder: {file[:100]!r}")
        yield key, Place(file, start, size, tuple(str(one)[:50] for one in packing))


def _paths(value: Any, budget: Budget) -> dict[str, Path]:
    """The keys of each name; what is not understood is shown by its flat name."""
    if type(value) is Stub and value.name == ("collections", "OrderedDict"):
        value = dict(value.pairs)
    if type(value) is not dict:
        return {}
    budget.charge(_ENTRY * len(value))
    return {
        name: path
        for name, path in value.items()
        if type(name) is str
        and type(path) is tuple
        and 0 < len(path) <= MOST_IN_PATH
        and all(type(one) in (str, int) for one in path)
    }
