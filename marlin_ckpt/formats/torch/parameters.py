"""Names the parameters of optimizers, by the state of the module that has them.

The state of an optimizer numbers its parameters and does not name them, so that moments would go to other
parameters of the same shape where the order has changed.
"""

import contextlib
import itertools
import operator
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from marlin_ckpt.formats.torch.memory import identity

Names = list[list[str]]  # of an optimizer's parameters, group by group
_Groups = list[list[torch.Tensor]]
_MOST_CHARACTERS = 2_000_000  # of all names: a manifest has room for 8 MB
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
_INNER = (Mapping, list, tuple, torch.nn.Module)  # may hold what is wanted, or are it


def names_in(optimizer: Optimizer, modules: Any) -> Names | None:
    """The names of an optimizer's parameters.

    Args:
        optimizer: whose parameters are named.
        modules: a module, or a state of one, or such in dicts and lists.

    Returns:
        for each group a name for each parameter; None where any of them is not found.
    """
    return _names(*_tensors(modules), _groups(optimizer))


class SlotNames:
    """The names of the parameters of all optimizers whose states the payloads of a run have."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._last: dict[str, tuple[_Seen, Names | None]] = {}

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
        looked_up: tuple[list[str], list[torch.Tensor]] | None = None
        for path, slot in _slots(payload) if optimizers else ():
            if (owner := _owner(slot, optimizers)) is None:
                continue
            names, tensors = looked_up = looked_up or _tensors(modules)
            groups = _groups(owner)
            seen, named = last.get(path, (None, None))
            if seen is None or not seen.are_still(names, tensors, groups):
                named = _names(names, tensors, groups)
                seen = _Seen.of(names, tensors, groups)
            if seen is not None:
                self._last[path] = seen, named
            if named:
                found[path] = named
        length = sum(sum(map(len, group)) for names in found.values() for group in names)
        return found if length <= _MOST_CHARACTERS else {}  # a save must not fail for them


class _Seen(NamedTuple):
    """By what parameters were named. It keeps no tensor alive.

    Attributes:
        names: of the tensors of the modules.
        addresses: of these.
        shapes: of those that share an address, which have nothing else to tell them from each other.
        groups: the parameters, group by group.
        places: the addresses of these.
    """

    names: list[str]
    addresses: list[int]
    shapes: list[torch.Size]
    groups: list[list[weakref.ref[torch.Tensor]]]
    places: list[list[int] | None]

    @classmethod
    def of(cls, names: list[str], tensors: list[torch.Tensor], groups: _Groups) -> "_Seen | None":
        """What was seen; None where more than this decides."""
        addresses, places = _addresses(tensors), list(map(_addresses, groups))
        if addresses is None or None in places:
            return None
        known = [list(map(weakref.ref, group)) for group in groups]
        return cls(names, addresses, _shapes(tensors, addresses), known, places)

    def are_still(self, names: list[str], tensors: list[torch.Tensor], groups: _Groups) -> bool:
        """Whether all is where it was, and the parameters are the same objects."""
        return (
            names == self.names
            and len(groups) == len(self.groups)
            and all(map(_are_same, self.groups, groups))
            and _addresses(tensors) == self.addresses
            and list(map(_addresses, groups)) == self.places
            and _shapes(tensors, self.addresses) == self.shapes
        )


def _shapes(tensors: list[torch.Tensor], addresses: list[int]) -> list[torch.Size]:
    """The shapes of tensors that share an address with others."""
    if len(set(addresses)) == len(addresses):
        return []
    counts = Counter(addresses)
    return [one.shape for one, address in zip(tensors, addresses, strict=True) if counts[address] > 1]


def _are_same(known: list[weakref.ref[torch.Tensor]], group: list[torch.Tensor]) -> bool:
    return len(known) == len(group) and all(map(operator.is_, map(operator.call, known), group))


def _addresses(tensors: list[torch.Tensor]) -> list[int] | None:
    """The addresses of plain tensors; None where there are others, or one without memory of its own."""
    if _PLAIN.issuperset(map(type, tensors)):
        with contextlib.suppress(RuntimeError):
            return list(map(torch.Tensor.data_ptr, tensors))
    return None


def _groups(optimizer: Optimizer) -> _Groups:
    return [group["params"] for group in optimizer.param_groups]


def _names(names: list[str], tensors: list[torch.Tensor], groups: _Groups) -> Names | None:
    # Of tied tensors the first gives the name.
    named = dict(zip(reversed(_places(tensors)), reversed(names), strict=True))
    named.pop(None, None)
    found = [list(map(named.get, _places(group))) for group in groups]
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


def _places(tensors: Sequence[torch.Tensor]) -> list[tuple[Any, ...] | None]:
    """What tells each tensor from others, also where one of the two was detached; None of one without any."""
    return list(map(_place, tensors))


def _place(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    # Of a DTensor, whose class takes longer to import than many a save.
    local = getattr(tensor, "_local_tensor", tensor)
    try:
        address = local.data_ptr()
        if not address and local is not tensor:  # this rank has no element of it
            address = identity(local.untyped_storage())
    except RuntimeError:  # a subclass without memory of its own
        return None
    return (tensor.device, address, tensor.shape) if address else None
