"""Modules of torch that were pickled whole: which of their parts `state_dict()` has, and under which names.

Source: `_save_to_state_dict` and `state_dict` in torch/nn/modules/module.py of torch 2.13. What a module's
own code adds to its state (`get_extra_state`, hooks) only that code knows.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from marlin_ckpt.formats.pickle.plain import plain_of
from marlin_ckpt.formats.pickle.stubs import Stub, length

_PARAMETERS, _BUFFERS, _MODULES = "_parameters", "_buffers", "_modules"
STATES = (_PARAMETERS, _BUFFERS, _MODULES)  # of a module's attributes, those that its state is made of
_PASSING = "_non_persistent_buffers_set"
_OWN = (*STATES, _PASSING)
# What `torch.nn.Module` keeps for itself beside them, which says nothing where it is empty.
_BOOKKEEPING = frozenset({
    "_backend", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
    "_is_full_backward_hook", "_load_state_dict_post_hooks", "_load_state_dict_pre_hooks",
    "_state_dict_hooks", "_state_dict_pre_hooks",
})  # fmt: skip
_PART = 32  # of the budget, for each part that is looked at
MAPPINGS = {("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter")}
_SETS = (list, set, frozenset)
_Pairs = list[tuple[Any, Any]]


class Module(NamedTuple):
    """What a module is made of.

    Attributes:
        state: its parameters, its buffers and the modules in it, each with its name.
        others: its other attributes, which its state_dict leaves out.
    """

    state: _Pairs
    others: _Pairs


def module_of(value: Any, charge: Callable[[int], None]) -> Module | None:
    """Makes out a module that was pickled whole.

    Args:
        value: anything that `StubReader` makes.
        charge: takes what looking at it costs from a budget: many modules may have the same parts.

    Returns:
        None for anything else.
    """
    attributes = _attributes(value)
    if attributes is None:
        return None
    charge(_PART * (len(attributes) + sum(_steps(attributes.get(name)) for name in _OWN)))
    passing = _texts(attributes.get(_PASSING))
    state = [(key, one) for key, one in items_of(attributes[_PARAMETERS]) if one is not None]
    buffers = items_of(attributes[_BUFFERS])
    state += [(key, one) for key, one in buffers if one is not None and not _is_in(key, passing)]
    state += [(key, one) for key, one in items_of(attributes[_MODULES]) if one is not None]
    others = [(key, one) for key, one in buffers if one is not None and _is_in(key, passing)]
    others += [(key, one) for key, one in attributes.items() if key not in _OWN and _says_something(key, one)]
    return Module(state, others)


def are_attributes(value: dict[Any, Any]) -> bool:
    """Whether a dict is the `__dict__` of a module."""
    return all(type(value.get(name)) in (dict, Stub) for name in STATES)


def items_of(value: Any) -> _Pairs:
    """The items of a dict, or of one of the mappings of `collections`; nothing of anything else."""
    if isinstance(value, dict):
        return [*value.items()]
    if type(value) is not Stub or value.name not in MAPPINGS:
        return []
    return [*first_items(value), *value.pairs]


def first_items(value: Stub) -> Iterator[tuple[Any, Any]]:
    """The items that an OrderedDict is made with: Python 2 pickles it as a call with a list of pairs."""
    if value.name == ("collections", "OrderedDict") and len(value.arguments) == 1:
        given = value.arguments[0]
        if type(given) is list and all(type(one) is list and len(one) == 2 for one in given):  # noqa: PLR2004
            yield from ((key, one) for key, one in given)


def _steps(value: Any) -> int:
    """How many steps it takes to go over the items of a mapping or a set."""
    inner = sum(map(length, value.arguments)) if type(value) is Stub else 0
    return length(value) + inner


def _attributes(value: Any) -> dict[Any, Any] | None:
    """The `__dict__` of a module; None for anything else."""
    if type(value) is not Stub:
        return None
    # A class with slots has its attributes in a tuple, torch.fx hands those of a GraphModule to a function.
    state = value.state[0] if type(value.state) is tuple and value.state else value.state
    for one in (state, *value.arguments[:1]):
        if type(one) is dict and are_attributes(one):
            return one
    return None


def _texts(value: Any) -> frozenset[str]:
    parts = plain_of(value) if type(value) is Stub else value
    return (
        frozenset(one for one in parts if type(one) is str) if isinstance(parts, (list, set)) else frozenset()
    )


def _is_in(key: Any, names: frozenset[str]) -> bool:
    return type(key) is str and key in names


def _says_something(key: Any, value: Any) -> bool:
    is_empty = value is None or value is False or (type(value) is dict and not value)
    if type(value) is Stub and value.name in MAPPINGS:
        is_empty = not value.pairs and not any(value.arguments)
    return type(key) is not str or key not in _BOOKKEEPING or not is_empty
