"""A nested state and the flat names under which a sharded checkpoint stores what is in it.

The names are those that torch's own `flatten_state_dict` gives, keys joined by dots, so that stock readers
find them. What such a name loses (keys that are no strings, tuples, kinds of dicts, empty ones, the order of
these) is kept as the kinds of the containers, one small value more.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

OWN = ".marlin."  # begins names that no state has
KINDS = f"{OWN}kinds"

Path = tuple[str | int, ...]
Kinds = dict[Path, dict[str, Any]]


class Flattening:
    """Gives each part of a state its flat name; a subclass knows what tensors are.

    Attributes:
        tensors: by their names.
        values: all else that is stored, each pickled as a whole.
        paths: what leads to each: keys of mappings as strings, places in sequences as integers.
        kinds: of containers, by their paths, what the paths do not say: `like` (one of its kind, empty),
            `keys` that are no strings (`int`: all of them), and the `order` of all where one has nothing in
            it.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self.paths: dict[str, Path] = {}
        self.kinds: Kinds = {}
        self._walked: dict[int, bool] = {}  # by identity: what shares its parts many times takes no longer
        self._holding: dict[int, bool] = {}

    def is_tensor(self, value: Any) -> bool:
        """Whether a value is a tensor of any kind."""
        raise NotImplementedError

    def is_plain(self, tensor: Any) -> bool:
        """Whether the elements of a tensor alone make it; one of which they do not is a value."""
        raise NotImplementedError

    def check_value(self, path: Path, value: Any) -> None:
        """Raises an error for what may not be pickled as a whole."""

    def walk(self, path: Path, value: Any) -> None:
        """Adds what is at a path, and all below it.

        Mappings are walked down to what is none; lists and tuples where a tensor or a mapping is in them, and
        of tuples only a tensor counts.
        """
        if self.is_tensor(value) and self.is_plain(value):
            self.tensors[self._name(path)] = value
        elif isinstance(value, dict):
            self._walk_dict(path, value)
        elif self._is_walked(value):
            if type(value) is tuple:
                self.kinds[path] = {"like": ()}
            for at, one in enumerate(value):
                self.walk((*path, at), one)
        else:
            self.check_value(path, value)
            self.values[self._name(path)] = value

    def _walk_dict(self, path: Path, value: dict[Any, Any]) -> None:
        kind: dict[str, Any] = {}
        parts = _parts(value)
        if type(value) is not dict or not value:
            kind["like"] = _emptied(value)
        if not all(type(key) is str for key in value) or not all(map(str.__eq__, parts, value)):
            kind["keys"] = "int" if _are_ints(value) else _odd_keys(parts, value)
        for part, one in zip(parts, value.values(), strict=True):
            before = len(self.paths)
            self.walk((*path, part), one)
            if len(self.paths) == before:  # the place of what has nothing in it is known from here alone
                kind["order"] = parts
        if kind:
            self.kinds[path] = kind

    def _is_walked(self, value: Any) -> bool:
        """Whether what is in a list or tuple has names of its own; each is asked once, wherever it is."""
        if type(value) is tuple:
            return any(map(self._has_tensor, value))
        if type(value) is not list:
            return False
        if id(value) not in self._walked:
            self._walked[id(value)] = any(
                self.is_tensor(one) or isinstance(one, dict) or self._is_walked(one) for one in value
            )
        return self._walked[id(value)]

    def _has_tensor(self, value: Any) -> bool:
        if not isinstance(value, dict) and type(value) not in (list, tuple):
            return self.is_tensor(value)
        if id(value) not in self._holding:
            parts = value.values() if isinstance(value, dict) else value
            self._holding[id(value)] = any(map(self._has_tensor, parts))
        return self._holding[id(value)]

    def _name(self, path: Path) -> str:
        name = ".".join(map(str, path))
        if name.startswith(OWN):
            name = f"~{name}"
        taken, at = name, 1
        while name in self.paths:
            at += 1
            name = f"{taken}~{at}"
        self.paths[name] = path
        return name


def _parts(value: dict[Any, Any]) -> list[str]:
    """The keys as text, no two alike."""
    parts: dict[str, None] = {}
    for key in value:
        part = text = str(key)
        at = 1
        while part in parts:
            at += 1
            part = f"{text}~{at}"
        parts[part] = None
    return list(parts)


def _are_ints(value: dict[Any, Any]) -> bool:
    return all(type(key) is int for key in value)


def _odd_keys(parts: Iterable[str], value: dict[Any, Any]) -> dict[str, Any]:
    return {part: key for part, key in zip(parts, value, strict=True) if type(key) is not str or key != part}


def _emptied(value: dict[Any, Any]) -> dict[Any, Any]:
    """One of the same kind, with its attributes and nothing in it."""
    empty = copy.copy(value)
    empty.clear()
    return empty


class _Node(dict[str | int, Any]):
    """A container that is being made: what is in it, by the parts of paths."""


def unflatten(leaves: Mapping[str, Any], paths: Mapping[str, Path], kinds: Kinds | None = None) -> Any:
    """Makes the nested state of what is under flat names.

    Args:
        leaves: tensors and values by their names.
        paths: which of them lead where; a name that has none leads to itself.
        kinds: as `Flat` has them; without, keys are strings and containers dicts and lists.
    """
    root, known = _Node(), dict(kinds or {})
    for name, leaf in leaves.items():
        path = paths.get(name) or (name,)
        _node(root, path[:-1])[path[-1]] = leaf
    for path in known:
        _node(root, path)
    return _made(root, (), known)


def _node(root: _Node, path: Path) -> _Node:
    for part in path:
        inner = root.setdefault(part, _Node())
        if type(inner) is not _Node:  # a hostile file, or names of two states: the later one counts
            inner = root[part] = _Node()
        root = inner
    return root


def _made(node: _Node, path: Path, kinds: Kinds) -> Any:
    kind = kinds.get(path, {})
    made = {
        part: _made(one, (*path, part), kinds) if type(one) is _Node else one for part, one in node.items()
    }
    if type(kind.get("like")) is tuple:
        return tuple(made[part] for part in sorted(made))
    if made and "like" not in kind and all(type(part) is int for part in made):
        return [made[part] for part in sorted(made)]
    container = copy.copy(kind.get("like", {}))
    keys = kind.get("keys", {})
    for part in dict.fromkeys((*kind.get("order", ()), *made)):
        if part in made:
            container[int(part) if keys == "int" else keys.get(part, part)] = made[part]
    return container


def merged(parts: Iterable[Kinds]) -> Kinds:
    """The kinds of one state whose parts several ranks have; what the first says of a container counts."""
    whole: Kinds = {}
    for kinds in parts:
        for path, kind in kinds.items():
            known = whole.setdefault(path, dict(kind))
            if "order" in kind:
                known["order"] = list(dict.fromkeys((*known.get("order", ()), *kind["order"])))
            if isinstance(kind.get("keys"), dict) and isinstance(known.get("keys", {}), dict):
                known["keys"] = {**kind["keys"], **known.get("keys", {})}
    return whole
