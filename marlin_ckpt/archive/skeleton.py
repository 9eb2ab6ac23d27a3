"""What a pickle holds, without torch and without running any of it: which tensors lie in which record."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

_MOST_NODES = 1_000_000  # a state of 100,000 tensors has fewer; a pickle bomb has more


class _Stub:
    """Stands for everything that the pickle would import: takes any arguments and does nothing with them."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None
        self.items: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Any) -> None:
        self.items.extend(items)


class _Storage:
    """Stands for a storage; knows the record that holds it."""

    def __init__(self, key: str) -> None:
        self.key = key


class _Reader(pickle._Unpickler):  # noqa: SLF001 - see below
    # The one in Python, whose memo is a dict: the one in C makes an array as long as the greatest index that
    # the pickle names, which a few hostile bytes make tens of gigabytes.
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        del module_name, global_name
        return _Stub

    def persistent_load(self, pid: Any) -> Any:
        # ("storage", type, key, location, size); see torch.serialization._save.
        if isinstance(pid, tuple) and len(pid) > 2 and isinstance(pid[2], str):  # noqa: PLR2004
            return _Storage(pid[2])
        raise pickle.UnpicklingError("an unknown persistent id")


def tensor_names(data_pkl: bytes) -> dict[str, list[str]]:
    """Finds the names of the tensors in a pickled state.

    Args:
        data_pkl: the record `data.pkl`.

    Returns:
        for each storage's key (`0` for the record `data/0`) the paths of the tensors that view it, such as
        `module_interface_state.layers.0.weight`; empty where the pickle cannot be read.
    """
    try:
        state = _Reader(io.BytesIO(data_pkl)).load()
    except Exception:  # noqa: BLE001 - a damaged pickle raises anything; then there are no names to give
        return {}
    names: dict[str, list[str]] = {}
    for path, key in _storages(state):
        names.setdefault(key, []).append(path)
    return names


def _storages(state: Any) -> Iterator[tuple[str, str]]:
    """Walks the state; each object once, so that shared and cyclic structures end."""
    pending: list[tuple[str, Any]] = [("", state)]
    seen: set[int] = set()
    while pending and len(seen) < _MOST_NODES:
        path, value = pending.pop()
        if isinstance(value, _Storage):
            yield path, value.key
            continue
        if id(value) in seen:
            continue
        children = list(_children(value, path))
        if children:
            seen.add(id(value))
        pending.extend(reversed(children))


def _children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{path}.{key}" if path else str(key), part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{path}[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, _Stub):
        for part in (*value.arguments, value.state):
            # What an object is made of has the object's own name.
            if isinstance(part, (dict, list, tuple, _Stub, _Storage)):
                yield path, part
        for item in value.items:
            is_pair = isinstance(item, tuple) and len(item) == 2  # noqa: PLR2004
            yield (f"{path}.{item[0]}" if path else str(item[0]), item[1]) if is_pair else (path, item)
