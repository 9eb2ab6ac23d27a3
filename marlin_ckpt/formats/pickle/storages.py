"""What a pickle holds, without torch and without running any of it: which tensors lie in which record."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from marlin_ckpt.formats.pickle.stubs import Reader, Storage, Stub, Writer

_MOST_NODES = 1_000_000  # a state of 100,000 tensors has fewer; a pickle bomb has more
_PROTOCOL = 2  # that of torch.save
# Of the classes in torch/storage.py that are pickled by name; other dtypes are pickled as UntypedStorage.
_ITEM_BYTES = {
    "UntypedStorage": 1, "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "ShortStorage": 2,
    "HalfStorage": 2, "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8,
    "DoubleStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
}  # fmt: skip


def tensor_names(data_pkl: bytes) -> dict[str, list[str]]:
    """Finds the names of the tensors in a pickled state.

    Args:
        data_pkl: the record `data.pkl`.

    Returns:
        for each storage's key (`0` for the record `data/0`) the paths of the tensors that view it, such as
        `module_interface_state.layers.0.weight`; empty where the pickle cannot be read.
    """
    try:
        state = Reader(io.BytesIO(data_pkl)).load()
    except Exception:  # noqa: BLE001 - a damaged pickle raises anything; then there are no names to give
        return {}
    names: dict[str, list[str]] = {}
    for path, storage in _storages(state):
        names.setdefault(storage.key, []).append(path)
    return names


def record_sizes(data_pkl: bytes) -> dict[str, int | None]:
    """How many bytes each storage of a pickled state has, by its key.

    Returns:
        None for those of a type that is not known here; empty where the pickle cannot be read.
    """
    try:
        found = list(_storages(Reader(io.BytesIO(data_pkl)).load()))
    except Exception:  # noqa: BLE001 - as above
        return {}
    sizes: dict[str, int | None] = {}
    for _, storage in found:
        _, kind, key, _, numel = storage.pid
        item_bytes = (
            _ITEM_BYTES.get(kind.name[1]) if isinstance(kind, type) and issubclass(kind, Stub) else None
        )
        sizes[key] = numel * item_bytes if item_bytes is not None and isinstance(numel, int) else None
    return sizes


def without_records(data_pkl: bytes, keys: Iterable[str]) -> tuple[bytes, dict[str, list[str]]] | None:
    """Takes the tensors of some storages out of a pickled state, each with the entry of a dict that holds it.

    Args:
        data_pkl: the record `data.pkl`.
        keys: of the storages, `0` for the record `data/0`.

    Returns:
        the pickle of what is left, and by key what was taken out; None where nothing is left, or nothing can
        be told.
    """
    pruning = _Pruning(frozenset(keys))
    try:
        state = Reader(io.BytesIO(data_pkl)).load()
        if pruning.prune(state, ""):
            return None
        file = io.BytesIO()
        Writer(file, _PROTOCOL).dump(state)
    except Exception:  # noqa: BLE001 - a pickle that lies raises anything
        return None
    return file.getvalue(), pruning.lost


class _Pruning:
    def __init__(self, keys: frozenset[str]) -> None:
        self._keys = keys
        self._found: dict[int, set[str]] = {}
        self.lost: dict[str, list[str]] = {}

    def prune(self, value: Any, path: str) -> set[str]:
        """Removes what is lost from the dicts in a value; returns the keys that its rest still needs."""
        if isinstance(value, Storage):
            return {value.key} & self._keys
        if id(value) in self._found or not isinstance(value, (dict, list, tuple, Stub)):
            return self._found.get(id(value), set())
        needs: set[str] = set()
        self._found[id(value)] = needs
        if isinstance(value, dict):
            for key in [key for key, part in value.items() if self._is_lost(part, _join(path, key))]:
                del value[key]
        elif isinstance(value, Stub):
            value.pairs = [pair for pair in value.pairs if not self._is_lost(pair[1], _join(path, pair[0]))]
            for part in (*value.arguments, value.state, *value.items):
                needs |= self.prune(part, path)
        else:
            for number, part in enumerate(value):
                needs |= self.prune(part, f"{path}[{number}]")
        return needs

    def _is_lost(self, part: Any, path: str) -> bool:
        needs = self.prune(part, path)
        for key in needs:
            self.lost.setdefault(key, []).append(path)
        return bool(needs)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _storages(state: Any) -> Iterator[tuple[str, Storage]]:
    """Walks the state; each object once, so that shared and cyclic structures end."""
    pending: list[tuple[str, Any]] = [("", state)]
    seen: set[int] = set()
    while pending and len(seen) < _MOST_NODES:
        path, value = pending.pop()
        if isinstance(value, Storage):
            yield path, value
            continue
        if id(value) in seen:
            continue
        children = list(_children(value, path))
        if children:
            seen.add(id(value))
        pending.extend(reversed(children))


def _children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((_join(path, key), part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{path}[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, Stub):
        for part in (*value.arguments, value.state, *value.items):
            # What an object is made of has the object's own name.
            if isinstance(part, (dict, list, tuple, Stub, Storage)):
                yield path, part
        for key, part in value.pairs:
            yield _join(path, key), part
