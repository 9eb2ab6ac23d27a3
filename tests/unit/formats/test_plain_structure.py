"""Making a state plain keeps its structure: sharing, cycles, keys, order, and the caller's own objects."""

from __future__ import annotations

import copy
import datetime
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from marlin_ckpt import Checkpoint
from marlin_ckpt.saving.plain import plain


@pytest.fixture
def round_trip(make_checkpointer, caplog):
    """Saves a value, asks that nothing be warned of, and loads it with `weights_only`."""

    def go(value: Any) -> Any:
        checkpointer = make_checkpointer()
        checkpointer.save(Checkpoint({"value": value}, {}, {}), 1)
        assert caplog.messages == []
        return checkpointer.load().module_interface_state["value"]

    return go


def test_a_state_without_such_values_is_taken_as_it_is():
    state = {"a": [1, (2.0, "b")], "t": torch.ones(2), "n": None}
    assert plain(state) is state


def test_the_callers_state_is_not_changed(make_checkpointer):
    array, path = np.arange(3), Path("a")
    state = {"array": array, "deep": [path, (np.float32(1), {"k": array})]}
    before = copy.deepcopy(state)
    make_checkpointer().save(Checkpoint(state, {}, {}), 1)
    assert state["array"] is state["deep"][1][1]["k"] is array
    assert state["deep"][0] is path
    assert type(state["deep"][1][0]) is np.float32
    assert str(state) == str(before)


def test_what_was_one_object_is_one_object_when_it_comes_back(round_trip):
    shared, array = [np.int64(1)], np.arange(3)
    loaded = round_trip({"a": shared, "b": (shared, array), "c": array})
    assert loaded["a"] is loaded["b"][0]
    assert loaded["b"][1] is loaded["c"]
    loaded["c"][0] = 9
    assert loaded["b"][1].tolist() == [9, 1, 2]


def test_cycles_through_lists_and_dicts_come_back_as_cycles(round_trip):
    state: dict[str, Any] = {"n": np.int64(1), "list": []}
    state["list"].append(state)
    state["me"] = state
    loaded = round_trip(state)
    assert loaded["me"] is loaded
    assert loaded["list"][0] is loaded
    assert loaded["n"] == 1


def test_a_tuple_inside_of_itself_stays_one_tuple():
    state: tuple[list[Any], Any] = ([], np.int64(1))
    state[0].append(state)
    copied = plain(state)
    assert copied[0][0] is copied
    assert copied[1] == 1


def test_a_state_shared_to_a_great_depth_is_saved_in_an_instant(round_trip):
    # A walker that does not remember where it was takes 2^60 steps here.
    state: list[Any] = [np.int64(1)]
    for _ in range(60):
        state = [state, state]
    loaded = round_trip(state)
    while len(loaded) == 2:
        assert loaded[0] is loaded[1]
        loaded = loaded[0]
    assert loaded == [1]


def test_an_ordered_dict_keeps_its_order_and_the_versions_of_its_modules(round_trip):
    state = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).state_dict()
    state["extra"] = np.float64(0.5)
    state.move_to_end("extra", last=False)
    loaded = round_trip(state)
    assert type(loaded) is OrderedDict
    assert list(loaded) == list(state)
    assert loaded._metadata == state._metadata
    assert loaded._metadata["0"] == {"version": 2}


@pytest.mark.parametrize(
    "state",
    [{Path("a"): 1, "a": 2}, {"a": 2, Path("a"): 1}, {datetime.date(2026, 1, 2): 1, "2026-01-02": 2}],
    ids=["path first", "path last", "date"],
)
def test_keys_whose_plain_forms_are_equal_do_not_swallow_one_another(
    make_checkpointer, state: dict[Any, int]
):
    checkpointer = make_checkpointer(weights_only=False)
    checkpointer.save(Checkpoint(state, {}, {}), 1)
    assert sorted(checkpointer.load().module_interface_state.values()) == [1, 2]


def test_arrays_and_tensors_stay_apart_from_the_memory_of_the_caller(round_trip):
    array = np.arange(3)
    loaded = round_trip(array)
    array[0] = 99
    assert loaded.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({np.int64(3), 4}, {3, 4}),
        (Counter({np.str_("a"): np.int64(2)}), Counter(a=2)),
        ([{Path("a")}], [{"a"}]),
    ],
    ids=["set", "counter", "set in a list"],
)
def test_sets_and_counters_are_made_of_plain_values_and_stay_what_they_are(state, expected):
    made = plain(state)
    assert made == expected
    assert type(made) is type(expected)
    parts = made if isinstance(made, (set, Counter)) else made[0]
    assert {type(part) for part in parts} <= {int, str}
