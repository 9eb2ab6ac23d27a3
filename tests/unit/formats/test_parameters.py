"""The names of an optimizer's parameters, save after save: always those of now."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from marlin_ckpt.formats.torch import parameters
from marlin_ckpt.formats.torch.parameters import SlotNames


class Model(torch.nn.Module):
    """Two weights of one shape, and one that is tied to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
        self.tied = torch.nn.Linear(2, 2, bias=False)
        self.tied.weight = self.first.weight


class Saves:
    """The names that the saves of one run find."""

    def __init__(self) -> None:
        self.module, self.known = Model(), SlotNames()
        self.optimizer = torch.optim.Adam(self.module.parameters())
        self.module.tied(self.module.second(torch.ones(2))).sum().backward()
        self.optimizer.step()

    def names(self):
        payload = {"optimizer": self.optimizer.state_dict()}
        return self.known.of(payload, self.module.state_dict(), [self.optimizer]).get("optimizer")


@pytest.fixture
def saves() -> Saves:
    made = Saves()
    assert [made.names() for _ in range(2)] == [[["first.weight", "second.weight"]]] * 2
    return made


def renamed(saves):
    saves.module.third = saves.module.second
    del saves.module.second
    return [["first.weight", "third.weight"]]


def in_another_order(saves):
    saves.optimizer.param_groups[0]["params"].reverse()
    return [["second.weight", "first.weight"]]


def in_two_groups(saves):
    second = saves.optimizer.param_groups[0]["params"].pop()
    saves.optimizer.param_groups.append({**saves.optimizer.param_groups[0], "params": [second]})
    return [["first.weight"], ["second.weight"]]


def with_one_more(saves):
    saves.module.more = torch.nn.Parameter(torch.ones(1))
    saves.optimizer.add_param_group({"params": [saves.module.more]})
    return [["first.weight", "second.weight"], ["more"]]


def with_new_memory(saves):
    saves.module.second.weight.data = torch.ones(2, 2)
    return [["first.weight", "second.weight"]]


def exchanged(saves):
    first, second = saves.module.first.weight, saves.module.second.weight
    first.data, second.data = second.data, first.data
    return [["first.weight", "second.weight"]]


def untied(saves):
    saves.module.first.weight = torch.nn.Parameter(torch.ones(2, 2))
    return [["tied.weight", "second.weight"]]


def viewed(saves):
    weight = saves.module.first.weight
    saves.module.first.weight = torch.nn.Parameter(weight.detach().view(4))
    return [["tied.weight", "second.weight"]]


def replaced(saves):
    group, state = saves.optimizer.param_groups[0]["params"], saves.optimizer.state
    old, group[1] = group[1], torch.nn.Parameter(torch.ones(2, 2))  # which no module has
    state[group[1]] = state.pop(old)


def in_another_shape(saves):
    group, state = saves.optimizer.param_groups[0]["params"], saves.optimizer.state
    old, group[1] = group[1], torch.nn.Parameter(group[1].detach().view(4))
    state[group[1]] = state.pop(old)


_CHANGES = [
    renamed,
    in_another_order,
    in_two_groups,
    with_one_more,
    with_new_memory,
    exchanged,
    untied,
    viewed,
    replaced,
    in_another_shape,
]


@pytest.mark.parametrize("change", _CHANGES)
def test_names_are_those_of_now_whatever_has_changed_since_the_save_before(saves, change):
    expected = change(saves)
    assert [saves.names() for _ in range(2)] == [expected] * 2


def test_where_nothing_has_changed_no_tensor_is_looked_at_one_by_one(saves, monkeypatch):
    monkeypatch.setattr(parameters, "_place", pytest.fail)
    with torch.no_grad():
        saves.module.first.weight.add_(1)
    assert saves.names() == [["first.weight", "second.weight"]]


def test_no_parameter_is_kept_alive(saves):
    held = weakref.ref(saves.module.second.weight)
    saves.module = saves.optimizer = None
    gc.collect()
    assert held() is None
