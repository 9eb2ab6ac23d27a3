"""A nested state becomes flat names and comes back as it was."""

from __future__ import annotations

import copy
import pickle
from collections import Counter, OrderedDict, defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from marlin_ckpt.distributed.flat import KINDS, Flat, beyond, flatten, merged, unflatten
from marlin_ckpt.errors import UnsavableStateError

_KEYS = st.one_of(
    st.sampled_from(["a", "a.b", "b", "", "1", "1~2", ".marlin.kinds"]), st.integers(0, 2), st.none()
)
_TENSORS = st.integers(0, 3).map(lambda size: torch.full((size,), size))
_LEAVES = st.one_of(
    st.none(), st.integers(), st.text(max_size=3), st.tuples(st.integers()), _TENSORS
)  # fmt: skip


def _containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    dicts = st.dictionaries(_KEYS, inner, max_size=3)
    ordered, defaults = dicts.map(OrderedDict), dicts.map(lambda one: defaultdict(list, one))
    lists = st.lists(inner, max_size=3)
    return st.one_of(dicts, ordered, defaults, lists, lists.map(tuple))


_STATES = st.dictionaries(_KEYS, st.recursive(_LEAVES, _containers, max_leaves=12), max_size=4)


def _again(flat: Flat, order: int = 1) -> dict:
    leaves = {name: {**flat.tensors, **flat.values}[name] for name in list(flat.paths)[::order]}
    return unflatten(leaves, flat.paths, pickle.loads(pickle.dumps(flat.kinds)))


def _same(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one is other
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            key == there and type(key) is type(there) and _same(one[key], other[there])
            for key, there in zip(one, other, strict=True)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


@given(_STATES)
def test_any_state_comes_back_with_its_kinds_keys_and_order(state):
    flat = flatten(state)

    assert _same(_again(flat), state)
    assert len({*flat.tensors, *flat.values}) == len(flat.paths)
    assert KINDS not in flat.paths


def test_names_are_those_of_torch():
    weight = torch.zeros(2)
    state = {
        "model": OrderedDict({"layer.weight": weight, "n": 3}),
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0)}},
            "param_groups": [{"lr": 0.1, "params": [0], "betas": (0.9, 0.99)}],
        },
        "lists": [[1, 2], [weight]],
        "empty": {},
        "none": None,
    }
    names, paths = flatten_state_dict(state)

    flat = flatten(state)

    assert {*flat.tensors, *flat.values} == set(names)
    assert flat.paths == paths
    assert _same(_again(flat), state)


def test_attributes_of_a_state_dict_and_the_integers_of_an_optimizer_are_kept():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    state = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}

    back = _again(flatten(state))

    assert _same(back, state)
    assert back["model"]._metadata == module.state_dict()._metadata
    assert "layer" not in back["model"]
    assert flatten(state).kinds[("optimizer", "state")]["keys"] == "int"
    assert len(state["model"]) > 0  # emptying a copy leaves the state alone


def test_a_tensor_under_two_names_is_tied_and_one_of_another_shape_is_not():
    tensor, empty = torch.arange(6.0), torch.empty(0)
    state = {
        "a": tensor,
        "b": tensor.detach(),
        "c": tensor.view(2, 3),
        "d": tensor[:3],
        "e": empty,
        "f": empty,
    }

    assert flatten(state).ties == {"b": "a"}


class _Marked(torch.Tensor):
    """Of a class that may have more in it than its elements."""


@pytest.mark.parametrize(
    "odd", [torch.eye(3).as_subclass(_Marked), torch.eye(3).to_sparse(), Counter("aab"), {1, 2}, object]
)
def test_what_is_neither_tensor_nor_container_is_one_value(odd):
    assert ("odd" in flatten({"odd": odd}).values) == (not isinstance(odd, dict))


def test_a_state_without_names_or_that_holds_itself_is_refused():
    loop: dict = {}
    loop["loop"] = loop
    for state in ([torch.zeros(1)], torch.zeros(1), loop):
        with pytest.raises(UnsavableStateError):
            flatten(state)


def test_the_kinds_of_two_ranks_make_those_of_the_whole():
    whole = {
        "all": (1, torch.ones(1)),
        "ranks": {"0": {"rng": (torch.ones(1),)}, "1": {"rng": (torch.ones(1),)}},
    }
    flats = []
    for rank in "01":
        own = copy.copy(whole)
        own["ranks"] = {rank: whole["ranks"][rank]}
        flats.append(flatten(own))
    first, second = flats
    more = beyond(second.kinds, first.kinds)

    assert list(more) == [("ranks", "1", "rng")]
    leaves = {**second.tensors, **first.tensors, **first.values}
    back = unflatten(leaves, second.paths | first.paths, merged([first.kinds, more]))
    assert back.keys() == whole.keys()
    assert back["all"] == whole["all"]
    assert back["ranks"].keys() == {"0", "1"}
    assert type(back["ranks"]["1"]["rng"]) is tuple
