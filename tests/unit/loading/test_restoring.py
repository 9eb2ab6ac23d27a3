"""Loading into live objects."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from marlin_ckpt import Checkpoint, StateMismatchError
from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.loading import optimizers
from tests.support.restored import copied, net, same, saved, trained


@pytest.mark.parametrize("steps", [0, 2], ids=["a new optimizer", "one that has stepped"])
def test_a_module_and_an_optimizer_are_restored_to_what_was_saved(make_checkpointer, steps):
    checkpointer = make_checkpointer()
    module = net()
    weights, moments = saved(checkpointer, module, trained(module))
    other = net()
    optimizer = trained(other, steps)
    loaded = checkpointer.load(into=Checkpoint(other, {"optimizer": optimizer}))
    assert same(dict(other.state_dict()), weights)
    assert same(optimizer.state_dict(), moments)
    assert loaded.trainer_state["epoch"] == 3


def test_a_training_goes_on_from_restored_objects_as_from_loaded_ones(make_checkpointer):
    checkpointer = make_checkpointer()
    module = net()
    saved(checkpointer, module, trained(module))
    results = []
    for into in (True, False):
        other = net()
        optimizer = trained(other, 1)
        if into:
            checkpointer.load(into=Checkpoint(other, {"optimizer": optimizer}))
        else:
            loaded = checkpointer.load()
            other.load_state_dict(loaded.module_interface_state)
            optimizer.load_state_dict(loaded.trainer_state["optimizer"])
        for parameter in other.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        results.append(dict(other.state_dict()))
    assert same(*results)


def test_tensors_in_dicts_and_lists_are_restored_and_what_is_not_named_is_returned(make_checkpointer):
    checkpointer = make_checkpointer()
    state = {"a": torch.arange(3), "b": [torch.ones(2, 2), "text"], "c": 7}
    checkpointer.save(Checkpoint(state, None, None), 0)
    live = {"a": torch.zeros(3, dtype=torch.int64), "b": [torch.zeros(2, 2), None]}
    loaded = checkpointer.load(into=Checkpoint(live))
    assert same(live["a"], state["a"])
    assert same(live["b"][0], state["b"][0])
    assert loaded.module_interface_state["c"] == 7


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(4, 6).t(),
        lambda: torch.zeros(12, 8)[::2, ::2],
        lambda: torch.zeros(48)[24:].view(6, 4),
        lambda: torch.zeros(6, 4).to_sparse().to_dense(),
        lambda: torch.zeros(6, 4, requires_grad=True),
    ],
    ids=["transposed", "strided", "a part of a larger one", "dense again", "needing gradients"],
)
@pytest.mark.parametrize("save_transposed", [False, True])
def test_a_live_tensor_of_any_layout_gets_the_values(make_checkpointer, make, save_transposed):
    checkpointer = make_checkpointer()
    values = torch.arange(24.0).view(4, 6).t() if save_transposed else torch.arange(24.0).view(6, 4)
    checkpointer.save(Checkpoint({"x": values}, None, None), 0)
    live = make()
    checkpointer.load(into=Checkpoint({"x": live}))
    assert torch.equal(live, values)


def test_another_dtype_is_converted_and_told(make_checkpointer, caplog):
    checkpointer = make_checkpointer()
    module = torch.nn.Linear(3, 3)
    weights, _ = saved(checkpointer, module)
    other = torch.nn.Linear(3, 3).to(torch.bfloat16)
    with caplog.at_level(logging.WARNING):
        checkpointer.load(into=Checkpoint(other))
    assert torch.equal(other.weight, weights["weight"].to(torch.bfloat16))
    assert "Converted from torch.float32 to torch.bfloat16: module_interface_state.weight" in caplog.text


@pytest.mark.parametrize(
    ("live", "difference"),
    [
        (torch.nn.Linear(3, 4), "module_interface_state.weight is (4, 4) in the file, (4, 3) here"),
        (torch.nn.Linear(4, 4, bias=False), "module_interface_state.bias is not in the module"),
        (
            torch.nn.Sequential(torch.nn.Linear(4, 4)),
            "module_interface_state.0.weight is missing in the file",
        ),
        ({"scale": torch.ones(1)}, "module_interface_state.scale is missing in the file"),
        ([torch.ones(1)], "module_interface_state is a OrderedDict of 2 in the file, a list of 1 here"),
    ],
    ids=["shape", "extra key", "missing key", "missing tensor", "another kind"],
)
def test_what_does_not_fit_is_told_before_anything_is_changed(make_checkpointer, live, difference):
    checkpointer = make_checkpointer()
    saved(checkpointer, torch.nn.Linear(4, 4))
    state = live.state_dict() if isinstance(live, torch.nn.Module) else live
    before = copied(dict(state)) if isinstance(state, dict) else copied(state)
    fits = torch.zeros(4, 4)
    with pytest.raises(StateMismatchError) as caught:
        checkpointer.load(into=Checkpoint(live, None, None))
    assert difference in caught.value.differences
    assert same(dict(state) if isinstance(state, dict) else state, before)
    with pytest.raises(StateMismatchError):
        checkpointer.load(into=Checkpoint({"weight": fits, "absent": torch.ones(1)}))
    assert not fits.any()


def test_an_optimizer_of_other_groups_is_refused_before_the_module_is_changed(make_checkpointer):
    checkpointer = make_checkpointer()
    module = torch.nn.Linear(2, 2)
    saved(checkpointer, module, trained(module))
    other = torch.nn.Linear(2, 2)
    before = copied(dict(other.state_dict()))
    optimizer = torch.optim.AdamW([{"params": [other.weight]}, {"params": [other.bias]}])
    with pytest.raises(StateMismatchError, match=r"groups of \[2\] parameters in the file, of \[1, 1\] here"):
        checkpointer.load(into=Checkpoint(other, {"optimizer": optimizer}))
    assert same(dict(other.state_dict()), before)


def test_a_state_for_parameters_of_other_shapes_is_refused_by_an_optimizer_that_has_not_stepped(
    make_checkpointer,
):
    checkpointer = make_checkpointer()
    module = torch.nn.Linear(2, 3)
    saved(checkpointer, module, trained(module))
    other = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(other.parameters())
    with pytest.raises(StateMismatchError) as caught:
        checkpointer.load(into=Checkpoint(None, {"optimizer": optimizer}))
    assert (
        "trainer_state.optimizer.state[0].exp_avg is (3, 2) in the file, (2, 3) here"
        in caught.value.differences
    )
    assert not optimizer.state


@pytest.mark.parametrize(
    "state",
    [
        {},
        [1],
        {"state": {}, "param_groups": None},
        {"state": {}, "param_groups": [1]},
        {"state": {}, "param_groups": [{"lr": 1}]},
        {"state": [], "param_groups": [{"params": [0, 1]}]},
        {"state": {0: 1}, "param_groups": [{"params": [0, 1]}]},
    ],
    ids=repr,
)
def test_what_is_no_state_of_an_optimizer_is_refused_before_the_module_is_changed(make_checkpointer, state):
    checkpointer = make_checkpointer()
    module, live = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    checkpointer.save(Checkpoint(module.state_dict(), {"optimizer": state}), 0)
    before = copied(dict(live.state_dict()))
    into = Checkpoint(live, {"optimizer": torch.optim.AdamW(live.parameters())})
    with pytest.raises(StateMismatchError, match="optimizer is no state of an optimizer"):
        checkpointer.load(into=into)
    assert same(dict(live.state_dict()), before)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: out of memory")])
def test_memory_that_an_object_lacks_to_take_its_state_is_no_misfit(make_checkpointer, error):
    class Greedy:
        def load_state_dict(self, state: object) -> None:
            raise error

    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint(None, {"object": {"a": 1}}, None), 0)
    with pytest.raises(type(error)):
        checkpointer.load(into=Checkpoint(None, {"object": Greedy()}))


def test_a_module_that_reads_states_in_its_own_way_is_left_to_do_so(make_checkpointer):
    class Doubling(torch.nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            doubled = {key: value * 2 for key, value in state_dict.items()}
            super()._load_from_state_dict(doubled, prefix, *rest)

    checkpointer = make_checkpointer()
    weights, _ = saved(checkpointer, torch.nn.Linear(2, 2))
    live = Doubling(2, 2)
    checkpointer.load(into=Checkpoint(live))
    assert torch.equal(live.weight, weights["weight"] * 2)


def test_autograd_sees_that_restored_tensors_have_changed(make_checkpointer):
    checkpointer = make_checkpointer()
    module = torch.nn.Linear(2, 2, bias=False)
    saved(checkpointer, module)
    loss = module(module(torch.ones(1, 2))).sum()
    checkpointer.load(into=Checkpoint(module))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_damaged_newest_file_is_passed_over_and_the_one_before_it_restored(make_checkpointer):
    checkpointer = make_checkpointer()
    module = torch.nn.Linear(64, 64)
    weights, _ = saved(checkpointer, module)
    path = Path(checkpointer.save(Checkpoint(net().state_dict() | module.state_dict(), {}, {}), 1))
    path.write_bytes(path.read_bytes()[:-500])
    live = torch.nn.Linear(64, 64)
    checkpointer.load(into=Checkpoint(live))
    assert same(dict(live.state_dict()), weights)


def test_a_damaged_file_that_was_named_is_an_error_that_names_the_tensor(make_checkpointer):
    checkpointer = make_checkpointer(load_filename="model_0.pt")
    module = torch.nn.Linear(64, 64)
    path = Path(checkpointer.save(Checkpoint(module.state_dict(), {}, {}), 0))
    data = bytearray(path.read_bytes())
    data[data.index(bytes(module.weight.detach().numpy().tobytes()[:64])) + 7] ^= 1
    path.write_bytes(data)
    live = torch.nn.Linear(64, 64)
    loss = live(live(torch.ones(1, 64))).sum()
    with pytest.raises(CorruptCheckpointError) as caught:
        checkpointer.load(into=Checkpoint(live))
    assert caught.value.tensors == ("module_interface_state.weight",)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # by what was read so far
        loss.backward()


def test_the_tensors_of_an_optimizer_are_compared_only_where_its_state_fits():
    module, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    state = trained(module).state_dict()
    told, kept = optimizers.compared(state, trained(module), "optimizer")
    assert told == []
    assert {one.name for one in kept} >= {"state[0].exp_avg", "state[1].step"}
    told, kept = optimizers.compared(state, trained(other), "optimizer")
    assert told[0] == "optimizer.state[0].exp_avg is (2, 2) in the file, (3, 2) here"
    assert kept == []


def test_nothing_to_load_leaves_the_objects_as_they_are(make_checkpointer):
    live = torch.nn.Linear(2, 2)
    before = copied(dict(live.state_dict()))
    assert make_checkpointer().load(into=Checkpoint(live)) == Checkpoint()
    assert same(dict(live.state_dict()), before)
