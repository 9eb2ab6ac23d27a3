"""A nested state and the flat names under which a sharded checkpoint stores what is in it.

The names are those that torch's own `flatten_state_dict` gives, keys joined by dots, so that stock readers
find them. What such a name loses (keys that are no strings, tuples, kinds of dicts, empty ones, the order of
these) is kept in `Flat.kinds`, one small value more.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from marlin_ckpt.errors import UnsavableStateError

OWN = ".marlin."  # begins names that no state has
KINDS = f"{OWN}kinds"

Path = tuple[str | int, ...]
Kinds = dict[Path, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Flat:
    """A state by flat names.

    Attributes:
        tensors: the strided tensors, DTensors among them.
        values: all else that is stored, each pickled as a whole.
        paths: what leads to each: keys of mappings as strings, places in sequences as integers.
        ties: names whose tensor is that of an earlier name, in the same memory.
        kinds: of containers, by their paths, what the paths do not say: `like` (one of its kind, empty),
            `keys` that are no strings (`int`: all of them), and the `order` of all where one has nothing in
            it.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    kinds: Kinds = field(default_factory=dict)


def flatten(state: Mapping[Any, Any]) -> Flat:
    """Gives each part of a state its flat name.

    Mappings are walked down to what is none; lists and tuples where a tensor or a mapping is in them, and of
    tuples only a tensor counts; all else is a value. Two parts of one name get different ones, by `~2`.

    Args:
        state: a dict, or of a class derived from it.

    Raises:
        UnsavableStateError: it is no dict, or is nested too deeply; a DTensor is in an object of a class that
            is not walked.
    """
    if not isinstance(state, dict):
        hint = "put it into a dict: {'model': ...}"
        raise UnsavableStateError(f"a {type(state).__name__} has no names to shard it by", "", hint)
    flattening = _Flattening()
    try:
        flattening.walk((), state)
    except RecursionError as error:
        raise UnsavableStateError("the state is nested too deeply to be saved") from error
    return flattening.flat


class _Flattening:
    def __init__(self) -> None:
        self.flat = Flat()
        self._memory: dict[tuple[Any, ...], str] = {}

    def walk(self, path: Path, value: Any) -> None:
        if isinstance(value, torch.Tensor) and _is_plain(value):
            self._add_tensor(self._name(path), value)
        elif isinstance(value, dict):
            self._walk_dict(path, value)
        elif _is_walked(value):
            if type(value) is tuple:
                self.flat.kinds[path] = {"like": ()}
            for at, one in enumerate(value):
                self.walk((*path, at), one)
        else:
            if _has_dtensor(value):
                what = f"the {type(value).__name__} at {'.'.join(map(str, path))} holds a DTensor"
                raise UnsavableStateError(what, "", "put sharded tensors into dicts, lists and tuples alone")
            self.flat.values[self._name(path)] = value

    def _walk_dict(self, path: Path, value: dict[Any, Any]) -> None:
        kind: dict[str, Any] = {}
        parts = _parts(value)
        if type(value) is not dict or not value:
            kind["like"] = _emptied(value)
        if not all(type(key) is str for key in value) or not all(map(str.__eq__, parts, value)):
            kind["keys"] = "int" if _are_ints(value) else _odd_keys(parts, value)
        for part, one in zip(parts, value.values(), strict=True):
            before = len(self.flat.paths)
            self.walk((*path, part), one)
            if len(self.flat.paths) == before:  # the place of what has nothing in it is known from here alone
                kind["order"] = parts
        if kind:
            self.flat.kinds[path] = kind

    def _add_tensor(self, name: str, tensor: torch.Tensor) -> None:
        self.flat.tensors[name] = tensor
        local = local_of(tensor)
        if local.numel() and local.device.type != "meta":
            whole = tuple(tensor.shape) if local is tensor else (*tensor.shape, *tensor.placements)  # type: ignore[attr-defined]
            place = (local.data_ptr(), local.dtype, local.device, tuple(local.shape), local.stride(), whole)
            first = self._memory.setdefault(place, name)
            if first != name:
                self.flat.ties[name] = first

    def _name(self, path: Path) -> str:
        name = ".".join(map(str, path))
        if name.startswith(OWN):
            name = f"~{name}"
        taken, at = name, 1
        while name in self.flat.paths:
            at += 1
            name = f"{taken}~{at}"
        self.flat.paths[name] = path
        return name


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this rank has; a tensor that is no DTensor itself."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor  # noqa: SLF001 - without autograd


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its elements alone make it; sparse, quantized and nested ones are values."""
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested


def _is_walked(value: Any) -> bool:
    if type(value) is list:
        return any(isinstance(one, (torch.Tensor, dict)) or _is_walked(one) for one in value)
    return type(value) is tuple and any(map(_has_tensor, value))


def _has_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_tensor, value.values()))
    return isinstance(value, torch.Tensor) or (type(value) in (list, tuple) and any(map(_has_tensor, value)))


def _has_dtensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_dtensor, value.values()))
    return isinstance(value, DTensor) or (
        isinstance(value, (list, tuple, set, frozenset)) and any(map(_has_dtensor, value))
    )


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


def beyond(kinds: Kinds, common: Kinds) -> Kinds:
    """What some kinds say that others do not."""
    return dict(_beyond(kinds, common))


def _beyond(kinds: Kinds, common: Kinds) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, kind in kinds.items():
        known = common.get(path)
        if (
            known is None
            or known.keys() != kind.keys()
            or any(kind[key] != known[key] for key in kind if key != "like")
        ):
            yield path, kind
