"""What a pickle holds, without torch and without running any of it: which tensors lie in which record."""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Self

_MOST_NODES = 1_000_000  # a state of 100,000 tensors has fewer; a pickle bomb has more
_PROTOCOL = 2  # that of torch.save
# Of the classes in torch/storage.py that are pickled by name; other dtypes are pickled as UntypedStorage.
_ITEM_BYTES = {
    "UntypedStorage": 1, "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "ShortStorage": 2,
    "HalfStorage": 2, "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8,
    "DoubleStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
}  # fmt: skip


class _Stub:
    """Stands for an object that the pickle would make: takes any arguments and does nothing with them.

    Each name that the pickle would import becomes a class of its own, derived from this one.
    """

    name: ClassVar[tuple[str, str]] = ("", "")
    arguments: tuple[Any, ...]
    state: Any
    items: list[Any]
    pairs: list[tuple[Any, Any]]
    is_called = False

    def __new__(cls, *arguments: Any) -> Self:
        self = super().__new__(cls)
        self.arguments, self.state, self.items, self.pairs = arguments, None, [], []
        return self

    def __init__(self, *arguments: Any) -> None:
        del arguments
        self.is_called = True  # the opcode NEWOBJ makes objects without this

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Any) -> None:
        self.items.extend(items)

    def __reduce__(self) -> tuple[Any, ...]:
        made = (type(self), self.arguments)
        if not self.is_called:
            made = (copyreg.__newobj__, (type(self), *self.arguments))  # type: ignore[attr-defined]
        return (
            *made,
            self.state,
            iter(self.items) if self.items else None,
            iter(self.pairs) if self.pairs else None,
        )


class _Storage:
    """Stands for a storage; knows the record that holds it."""

    def __init__(self, pid: tuple[Any, ...]) -> None:
        self.pid = pid
        self.key: str = pid[2]


class _Counted(io.BytesIO):
    """A pickle that ends after so many reads: each opcode may make an object of 64 times its length."""

    _left = 2_000_000

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise pickle.UnpicklingError("a pickle of too many opcodes")
        return super().read(size)


class _Reader(pickle._Unpickler):  # noqa: SLF001 - see below
    # The one in Python, whose memo is a dict: the one in C makes an array as long as the greatest index that
    # the pickle names, which a few hostile bytes make tens of gigabytes.
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return type("_Stub", (_Stub,), {"name": (module_name, global_name)})

    # Without opcodes that torch's protocol lacks: some of them hash, or allocate what the pickle says.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()  # noqa: SLF001
        if code not in b"d\x8e\x8f\x90\x91\x95\x96"
    }

    def load_setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])  # type: ignore[attr-defined]
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])  # type: ignore[attr-defined]
        super().load_setitems()  # type: ignore[misc]

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    @staticmethod
    def _check_keys(keys: list[Any]) -> None:
        # The hash of a tuple in a million others ends the process, that of 2^40 shared ones never ends.
        for key in keys:
            parts = key if isinstance(key, tuple) else (key,)
            if any(isinstance(part, (tuple, frozenset)) for part in parts):
                raise pickle.UnpicklingError("a nested key")

    def persistent_load(self, pid: Any) -> Any:
        # ("storage", type, key, location, size); see torch.serialization._save.
        if isinstance(pid, tuple) and len(pid) > 2 and isinstance(pid[2], str):  # noqa: PLR2004
            return _Storage(pid)
        raise pickle.UnpicklingError("an unknown persistent id")


class _Writer(pickle._Pickler):  # noqa: SLF001 - the one in C looks for each name in its module
    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, _Storage) else None

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, type) and issubclass(obj, _Stub):
            self.write(pickle.GLOBAL + "\n".join((*obj.name, "")).encode())  # type: ignore[attr-defined]
            self.memoize(obj)  # type: ignore[attr-defined]
        else:
            super().save_global(obj, name)  # type: ignore[misc]


def tensor_names(data_pkl: bytes) -> dict[str, list[str]]:
    """Finds the names of the tensors in a pickled state.

    Args:
        data_pkl: the record `data.pkl`.

    Returns:
        for each storage's key (`0` for the record `data/0`) the paths of the tensors that view it, such as
        `module_interface_state.layers.0.weight`; empty where the pickle cannot be read.
    """
    try:
        state = _Reader(_Counted(data_pkl)).load()
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
        found = list(_storages(_Reader(_Counted(data_pkl)).load()))
    except Exception:  # noqa: BLE001 - as above
        return {}
    sizes: dict[str, int | None] = {}
    for _, storage in found:
        _, kind, key, _, numel = storage.pid
        item_bytes = (
            _ITEM_BYTES.get(kind.name[1]) if isinstance(kind, type) and issubclass(kind, _Stub) else None
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
        state = _Reader(_Counted(data_pkl)).load()
        if pruning.prune(state, ""):
            return None
        file = io.BytesIO()
        _Writer(file, _PROTOCOL).dump(state)
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
        if isinstance(value, _Storage):
            return {value.key} & self._keys
        if id(value) in self._found or not isinstance(value, (dict, list, tuple, _Stub)):
            return self._found.get(id(value), set())
        needs: set[str] = set()
        self._found[id(value)] = needs
        if isinstance(value, dict):
            for key in [key for key, part in value.items() if self._is_lost(part, _join(path, key))]:
                del value[key]
        elif isinstance(value, _Stub):
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


def _storages(state: Any) -> Iterator[tuple[str, _Storage]]:
    """Walks the state; each object once, so that shared and cyclic structures end."""
    pending: list[tuple[str, Any]] = [("", state)]
    seen: set[int] = set()
    while pending and len(seen) < _MOST_NODES:
        path, value = pending.pop()
        if isinstance(value, _Storage):
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
    elif isinstance(value, _Stub):
        for part in (*value.arguments, value.state, *value.items):
            # What an object is made of has the object's own name.
            if isinstance(part, (dict, list, tuple, _Stub, _Storage)):
                yield path, part
        for key, part in value.pairs:
            yield _join(path, key), part
