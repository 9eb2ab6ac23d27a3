"""What a pickle holds, without torch and without running any of it: which tensors lie in which record."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.pickle.labels import join, key_text
from marlin_ckpt.formats.pickle.modules import STATES, are_attributes
from marlin_ckpt.formats.pickle.stubs import Storage, Stub, StubReader, StubWriter, length
from marlin_ckpt.formats.pickle.views import dtype_of
from marlin_ckpt.formats.values.dtypes import dtype

_PROTOCOL = 2  # that of torch.save
# Of the budget.
_NAME = 100  # beside its characters
_VISIT = 100  # of a container
_PART = 60  # of one that is pruned, and written again
_MOST_DEPTH = 1_000  # of what is walked; no pickler goes deeper
_HOLDERS = (dict, list, tuple, Stub)
_Place = tuple["_Place", Any] | None  # that of the whole, and the key in it


def tensor_names(data_pkl: bytes) -> dict[str, list[str]]:
    """Finds the names of the tensors in a pickled state.

    Args:
        data_pkl: the record `data.pkl`.

    Returns:
        for each storage's key (`0` for the record `data/0`) the paths of the tensors that view it, such as
        `module_interface_state.layers.0.weight`; empty where the pickle cannot be read.
    """
    names: dict[str, list[str]] = {}
    try:
        reader = _reader(data_pkl)
        for place, storage in _storages(reader.load(), reader.budget):
            names.setdefault(storage.key, []).append(_name(place, reader.budget))
    except Exception:  # noqa: BLE001 - a damaged pickle raises nearly anything; errors do without the names
        return {}
    return names


def record_sizes(data_pkl: bytes) -> dict[str, int | None]:
    """How many bytes each storage of a pickled state has, by its key.

    Returns:
        None for those of a type that is not known here.

    Raises:
        ExcessError: it would take too much to be read.
        Exception: as `Reader.load`.
    """
    reader = _reader(data_pkl)
    reader.load()
    return {key: _size(storage) for key, storage in reader.storages.items()}


def without_records(data_pkl: bytes, keys: Iterable[str]) -> tuple[bytes, dict[str, list[str]]] | None:
    """Takes the tensors of some storages out of a pickled state, each with the entry of a dict that holds it.

    Args:
        data_pkl: the record `data.pkl`.
        keys: of the storages, `0` for the record `data/0`.

    Returns:
        the pickle of what is left, and by key what was taken out; None where nothing is left.

    Raises:
        ExcessError: it would take too much to be read.
        Exception: as `Reader.load`.
    """
    reader = _reader(data_pkl)
    state, pruning = reader.load(), _Pruning(frozenset(keys), reader.budget)
    if pruning.prune(state, None):
        return None
    file = io.BytesIO()
    StubWriter(file, _PROTOCOL).dump(state)
    return file.getvalue(), pruning.lost


def _reader(data_pkl: bytes) -> StubReader:
    file = io.BytesIO(data_pkl)
    return StubReader(file, Budget(file.tell))


def _size(storage: Storage) -> int | None:
    item_bytes, numel = dtype(dtype_of(storage)).item_bytes, storage.pid[4]
    return numel * item_bytes if item_bytes and type(numel) is int else None


class _Pruning:
    def __init__(self, keys: frozenset[str], budget: Budget) -> None:
        self._keys = keys
        self._budget = budget
        self._found: dict[int, set[str]] = {}
        self.lost: dict[str, list[str]] = {}

    def prune(self, value: Any, place: _Place) -> set[str]:
        """Removes what is lost from the dicts in a value; returns the keys that its rest still needs."""
        if type(value) is Storage:
            return {value.key} & self._keys
        if id(value) in self._found or type(value) not in _HOLDERS:
            return self._found.get(id(value), set())
        needs: set[str] = set()
        self._found[id(value)] = needs
        self._budget.charge(_VISIT + _PART * length(value))
        if type(value) is dict:
            for key in [key for key, part in value.items() if self._is_lost(part, (place, key))]:
                del value[key]
        elif type(value) is Stub and value.pairs:
            value.pairs = [pair for pair in value.pairs if not self._is_lost(pair[1], (place, pair[0]))]
        for within, part in _parts(value, place):
            needs |= self.prune(part, within)
        return needs

    def _is_lost(self, part: Any, place: _Place) -> bool:
        needs = self.prune(part, place)
        for key in needs:
            self.lost.setdefault(key, []).append(_name(place, self._budget))
        return bool(needs)


def _storages(state: Any, budget: Budget) -> Iterator[tuple[_Place, Storage]]:
    """Walks the state; each object once, so that shared and cyclic structures end."""
    seen: set[int] = set()
    levels: list[Iterator[tuple[_Place, Any]]] = [iter([(None, state)])]
    while levels:
        for place, part in levels[-1]:
            if type(part) is Storage:
                yield place, part
            elif type(part) in _HOLDERS and id(part) not in seen and len(levels) < _MOST_DEPTH:
                seen.add(id(part))
                budget.charge(_VISIT)
                levels.append(_parts(part, place))
                break
        else:
            levels.pop()


def _parts(value: Any, place: _Place) -> Iterator[tuple[_Place, Any]]:
    """What lies in a value, and where; what an object is made of has the object's name."""
    pairs: Iterable[tuple[Any, Any]]
    unnamed: tuple[str, ...] = ()
    if type(value) is Stub:
        yield from ((place, part) for part in (*value.arguments, value.state, *value.items))
        pairs = value.pairs
    elif type(value) is dict:
        pairs = value.items()
        unnamed = STATES if are_attributes(value) else ()
    else:
        pairs = ((f"[{number}]", part) for number, part in enumerate(value))
    for key, part in pairs:
        if type(part) in _HOLDERS or type(part) is Storage:
            yield (place if key in unnamed else (place, key)), part


def _name(place: _Place, budget: Budget) -> str:
    keys = []
    while place is not None:
        place, key = place
        keys.append(key)
    name = ""
    for key in reversed(keys):
        name = join(name, key_text(key))
        budget.charge(len(name))
    budget.charge(_NAME)
    return name
