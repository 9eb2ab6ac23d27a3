"""Names the parameters of optimizers, by the state of the module that has them.

The state of an optimizer numbers its parameters and does not name them, so that moments would go to other
parameters of the same shape where the order has changed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

Names = list[list[str]]  # of an optimizer's parameters, group by group
_MOST_CHARACTERS = 2_000_000  # of all names: a manifest has room for 8 MB
_Place = tuple[str, int, torch.Size]


def names_in(optimizer: Optimizer, modules: Any) -> Names | None:
    """The names of an optimizer's parameters.

    Args:
        optimizer: whose parameters are named.
        modules: a module, or a state of one, or such in dicts and lists.

    Returns:
        for each group a name for each parameter; None where any of them is not found.
    """
    named: dict[_Place, str] = {}
    for name, tensor in _tensors(modules):
        if (place := _place(tensor)) is not None:
            named.setdefault(place, name)
    found = [
        [named.get(_place(one) or ("", 0, one.shape)) for one in group["params"]]
        for group in optimizer.param_groups
    ]
    names = [[name for name in group if name is not None] for group in found]
    return names if list(map(len, names)) == list(map(len, found)) else None


def names_of_slots(payload: Mapping[str, Any], modules: Any, known: Iterable[Optimizer]) -> dict[str, Names]:
    """The names of the parameters of all optimizers whose states a payload has, as far as they are known.

    Args:
        payload: in dicts and lists, the states that `state_dict` returned.
        modules: as for `names_in`.
        known: optimizers whose states these may be.

    Returns:
        the names, by where the payload has the state, `trainer_state.optimizer`.
    """
    # Lists, since another thread's optimizer may be in its first step, where it makes its state.
    owners = {
        id(tensor): one for one in known for kept in list(one.state.values()) for tensor in _values(kept)
    }
    found: dict[str, Names] = {}
    if not owners:
        return found
    for path, slot in _slots(payload):
        owner = next(
            (owners[id(one)] for kept in slot.values() for one in _values(kept) if id(one) in owners), None
        )
        if owner is not None and (names := names_in(owner, modules)):
            found[path] = names
    length = sum(len(name) for names in found.values() for group in names for name in group)
    return found if length <= _MOST_CHARACTERS else {}  # a save must not fail for them


def _values(kept: Any) -> Iterator[torch.Tensor]:
    if isinstance(kept, Mapping):
        yield from (one for one in list(kept.values()) if isinstance(one, torch.Tensor))


def _slots(payload: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The states of optimizers: where they are, and what they keep by the number of the parameter."""
    for path, value in _parts(payload, lambda one: isinstance(one, Mapping) and "param_groups" in one):
        if isinstance(value, Mapping) and isinstance(value.get("state"), Mapping):
            yield path, value["state"]


def _tensors(modules: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for path, value in _parts(modules, lambda one: isinstance(one, torch.Tensor)):
        if isinstance(value, torch.Tensor):
            yield path, value


def _parts(whole: Any, is_wanted: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """What is wanted in nested dicts, lists and modules' states, with its path; nothing in it is."""
    pending = [("", whole)]
    seen: set[int] = set()
    while pending:
        path, value = pending.pop()
        if is_wanted(value):
            yield path, value
        elif isinstance(value, torch.nn.Module):
            pending.append((path, value.state_dict()))
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Mapping):
                inner = [(f"{path}.{key}" if path else str(key), part) for key, part in value.items()]
            else:
                inner = [(f"{path}[{number}]", part) for number, part in enumerate(value)]
            # The last is taken first; of tied tensors the first one gives the name.
            pending.extend(reversed(inner))


def _place(tensor: torch.Tensor) -> _Place | None:
    """What tells a tensor from others, also where one of the two was detached."""
    # Of a DTensor, whose class takes longer to import than many a save, what is here of it.
    local = getattr(tensor, "_local_tensor", tensor)
    try:
        address = local.data_ptr()
        if not address and local is not tensor:  # this rank has no element of it
            address = local.untyped_storage()._cdata  # noqa: SLF001 - what tells storages from each other
    except RuntimeError:  # a subclass without memory of its own
        return None
    return (str(tensor.device), address, tensor.shape) if address else None
