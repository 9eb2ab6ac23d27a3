"""Copies a structure in which some values are replaced; what does not change is not copied."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from marlin_ckpt.errors import UnsavableStateError

_DICTS = (dict, OrderedDict, Counter)
_CONTAINERS = (*_DICTS, list, tuple, set)


def replaced(
    state: Any, changes: Callable[[Any], bool], replace: Callable[[Any], Any], *, keys: bool = False
) -> Any:
    """A structure with other values in it.

    Containers are copied only when something in them changes; sharing between them, and cycles, are kept.
    What stands in containers of other types is not found.

    Args:
        state: dicts, lists, tuples and sets, and what is in them.
        changes: whether `replace` returns another value than it is given.
        replace: is given each value, each once.
        keys: the keys of dicts are replaced, too.

    Raises:
        UnsavableStateError: it is nested too deeply.
    """
    try:
        return _Copier(replace, keys=keys).copy(state) if _has(state, changes, keys=keys) else state
    except RecursionError as error:
        raise UnsavableStateError("the state is nested too deeply to be saved") from error


def _has(state: Any, is_wanted: Callable[[Any], bool], *, keys: bool) -> bool:
    seen: set[int] = set()
    pending = [state]
    while pending:
        value = pending.pop()
        if type(value) in _CONTAINERS:
            if id(value) not in seen:
                seen.add(id(value))
                pending.extend(value.values() if isinstance(value, dict) else value)
                if keys and isinstance(value, dict):
                    pending.extend(value)
        elif is_wanted(value):
            return True
    return False


class _Copier:
    def __init__(self, replace: Callable[[Any], Any], *, keys: bool) -> None:
        self._replace = replace
        self._keys = keys
        # The original is kept beside its copy, so that its id is not given to another object meanwhile.
        self._done: dict[int, tuple[Any, Any]] = {}

    def copy(self, value: Any) -> Any:
        if id(value) in self._done:
            return self._done[id(value)][1]
        kind = type(value)
        if kind is list:
            made: Any = []
            self._done[id(value)] = (value, made)
            made.extend(map(self.copy, value))
        elif kind is set:
            made = {self.copy(part) for part in value} if self._keys else value
            made = made if len(made) == len(value) else value
            self._done[id(value)] = (value, made)
        elif kind in _DICTS:
            made = kind()
            self._done[id(value)] = (value, made)
            # torch hangs the versions of a state dict's modules on it, as an attribute.
            vars(made).update(vars(value)) if kind is OrderedDict else None
            keys = [self.copy(key) for key in value] if self._keys else list(value)
            if len(set(keys)) < len(value):  # a path and the string it would become
                keys = list(value)
            for key, part in zip(keys, value.values(), strict=True):  # a Counter's update would count them
                made[key] = self.copy(part)
        elif kind is tuple:
            made = tuple([self.copy(part) for part in value])
            # A tuple that holds itself through a list was made while its parts were, as pickle does it.
            made = self._done.setdefault(id(value), (value, made))[1]
        else:
            made = self._replace(value)
            if made is not value:
                self._done[id(value)] = (value, made)
        return made
