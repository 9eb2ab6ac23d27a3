"""Names the parameters of optimizers, by the state of the module that has them.

The state of an optimizer numbers its parameters and does not name them, so that moments would go to other
parameters of the same shape where the order has changed.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from marlin_ckpt.formats.torch.memory import identity

Names = list[list[str]]  # of an optimizer's parameters, group by group
_MOST_CHARACTERS = 2_000_000  # of all names: a manifest has room for 8 MB
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
_INNER = (Mapping, list, tuple, torch.nn.Module)  # may hold what is wanted, or are it
_device, _shape = attrgetter("device"), attrgetter("shape")


class _Places(NamedTuple):
    """What tells tensors from others, also where one of the two was detached; in columns, as `facts.Facts`.

    Attributes:
        devices: of each.
        addresses: of each; 0 where nothing tells it from others.
        shapes: of each.
    """

    devices: list[Any]
    addresses: list[int]
    shapes: list[Any]

    def rows(self) -> list[tuple[Any, ...] | None]:
        """The place of each tensor; None where it has none."""
        return [row if row[1] else None for row in zip(*self, strict=True)]


_LookedUp = tuple[list[str], _Places, list[_Places]]


def names_in(optimizer: Optimizer, modules: Any) -> Names | None:
    """The names of an optimizer's parameters.

    Args:
        optimizer: whose parameters are named.
        modules: a module, or a state of one, or such in dicts and lists.

    Returns:
        for each group a name for each parameter; None where any of them is not found.
    """
    return _names(*_looked_up(optimizer, modules))


class SlotNames:
    """The names of the parameters of all optimizers whose states the payloads of a run have."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._last: dict[str, tuple[_LookedUp, Names | None]] = {}

    def of(self, payload: Mapping[str, Any], modules: Any, known: Iterable[Optimizer]) -> dict[str, Names]:
        """The names, as far as the optimizers are known; those of the payload before where nothing has moved.

        Args:
            payload: in dicts and lists, the states that `state_dict` returned.
            modules: as for `names_in`.
            known: optimizers whose states these may be.

        Returns:
            the names, by where the payload has the state, `trainer_state.optimizer`.
        """
        optimizers = list(known)
        last, self._last = self._last, {}
        found: dict[str, Names] = {}
        for path, slot in _slots(payload) if optimizers else ():
            if (owner := _owner(slot, optimizers)) is None:
                continue
            looked_up = _looked_up(owner, modules)
            same, names = last.get(path, (None, None))
            names = names if same == looked_up else _names(*looked_up)
            self._last[path] = looked_up, names
            if names:
                found[path] = names
        length = sum(sum(map(len, group)) for names in found.values() for group in names)
        return found if length <= _MOST_CHARACTERS else {}  # a save must not fail for them


def _looked_up(optimizer: Optimizer, modules: Any) -> _LookedUp:
    """The names of tensors, the places of these, and the places of each group's parameters."""
    names, tensors = _tensors(modules)
    return names, _places(tensors), [_places(group["params"]) for group in optimizer.param_groups]


def _names(names: list[str], places: _Places, groups: list[_Places]) -> Names | None:
    # Of tied tensors the first gives the name.
    named = dict(zip(reversed(places.rows()), reversed(names), strict=True))
    named.pop(None, None)
    found = [list(map(named.get, group.rows())) for group in groups]
    return None if any(None in group for group in found) else [list(map(str, group)) for group in found]


def _owner(slot: Mapping[Any, Any], optimizers: Iterable[Optimizer]) -> Optimizer | None:
    """The optimizer whose state this is, by the tensors that both have."""
    for looked_at in (1, None):  # mostly the first parameter tells
        wanted = {id(one) for kept in itertools.islice(slot.values(), looked_at) for one in _values(kept)}
        for one in optimizers:
            # Lists, since another thread's optimizer may be in its first step, where it makes its state.
            if any(id(tensor) in wanted for held in list(one.state.values()) for tensor in _values(held)):
                return one
    return None


def _values(kept: Any) -> Iterator[torch.Tensor]:
    if isinstance(kept, Mapping):
        yield from (one for one in list(kept.values()) if isinstance(one, torch.Tensor))


def _slots(payload: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The states of optimizers: where they are, and what they keep by the number of the parameter."""
    for paths, values in _parts(payload, lambda one: isinstance(one, Mapping) and "param_groups" in one):
        for path, value in zip(paths, values, strict=True):
            if isinstance(value.get("state"), Mapping):
                yield path, value["state"]


def _tensors(modules: Any) -> tuple[list[str], list[torch.Tensor]]:
    names: list[str] = []
    tensors: list[torch.Tensor] = []
    for paths, values in _parts(modules, lambda one: isinstance(one, torch.Tensor), with_tensors=True):
        names += paths
        tensors += values
    return names, tensors


def _parts(
    whole: Any, is_wanted: Callable[[Any], bool], *, with_tensors: bool = False
) -> Iterator[tuple[Sequence[str], Sequence[Any]]]:
    """What is wanted in nested dicts, lists and modules' states, with the paths; nothing in it is.

    Args:
        whole: what is looked through.
        is_wanted: whether a value is.
        with_tensors: whether tensors are; other values than these and containers never are.
    """
    pending = [("", whole)]
    seen: dict[int, Any] = {}  # and the objects, so that no later one gets the id of a module's state
    while pending:
        path, value = pending.pop()
        if is_wanted(value):
            yield [path], [value]
        elif isinstance(value, torch.nn.Module):
            pending.append((path, value.state_dict()))
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen[id(value)] = value
            parts = list(value.values()) if isinstance(value, Mapping) else list(value)
            keys: Sequence[Any] = list(value) if isinstance(value, Mapping) else range(len(parts))
            kinds = list(map(type, parts))
            inner = {kind for kind in set(kinds) if issubclass(kind, _INNER)}
            found = {kind for kind in set(kinds) if with_tensors and issubclass(kind, torch.Tensor)}
            if not (inner or found):
                continue
            if not (inner | found).issuperset(kinds):  # names are not made for nothing
                flags = list(map((inner | found).__contains__, kinds))
                keys, parts = list(compress(keys, flags)), list(compress(parts, flags))
            if isinstance(value, Mapping):
                names = [f"{path}.{key}" for key in keys] if path else list(map(str, keys))
            else:
                names = [f"{path}[{number}]" for number in keys]
            if inner:  # the last is taken first; of tied tensors the first one gives the name
                pending.extend(zip(reversed(names), reversed(parts), strict=True))
            else:
                yield names, parts


def _places(tensors: Sequence[torch.Tensor]) -> _Places:
    if _PLAIN.issuperset(map(type, tensors)):
        with contextlib.suppress(RuntimeError):  # one without memory of its own
            addresses = list(map(torch.Tensor.data_ptr, tensors))
            return _Places(list(map(_device, tensors)), addresses, list(map(_shape, tensors)))
    return _Places(*map(list, zip(*map(_place, tensors), strict=True)))


def _place(tensor: torch.Tensor) -> tuple[Any, int, Any]:
    # Of a DTensor, whose class takes longer to import than many a save, what is here of it.
    local = getattr(tensor, "_local_tensor", tensor)
    try:
        address = local.data_ptr()
        if not address and local is not tensor:  # this rank has no element of it
            address = identity(local.untyped_storage())
    except RuntimeError:  # a subclass without memory of its own
        return None, 0, None
    return tensor.device, address, tensor.shape
