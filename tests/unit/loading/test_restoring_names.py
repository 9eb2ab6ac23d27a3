"""Names that differ between a file and live objects, slots that hold something else, and plain values."""

from __future__ import annotations

import pytest
import torch

from marlin_ckpt import Checkpoint, StateMismatchError, load, save
from tests.support.restored import copied, same


def named(module: torch.nn.Module, *, backwards: bool = False) -> torch.optim.Optimizer:
    parameters = list(module.named_parameters())
    return torch.optim.AdamW(parameters[::-1] if backwards else parameters)


def square() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))


def stepped(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for parameter in module.parameters():
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("how", ["registered", "seen to step", "named", "neither"])
@pytest.mark.parametrize("backwards", [False, True])
def test_an_optimizer_that_has_its_parameters_in_another_order_is_refused_where_names_are_known(
    make_checkpointer, how, backwards
):
    checkpointer, module, live = make_checkpointer(), square(), square()
    make = (
        named
        if how == "named"
        else lambda module, **options: torch.optim.AdamW(
            [parameter for _, parameter in list(module.named_parameters())[:: -1 if options else 1]]
        )
    )
    optimizer = stepped(module, make(module))
    if how != "seen to step":
        checkpointer = make_checkpointer()  # made after the step
    if how == "registered":
        checkpointer.register(optimizer)
    checkpointer.save(Checkpoint(module.state_dict(), {"optimizers": [optimizer.state_dict()]}), 0)
    other = make(live, **({"backwards": True} if backwards else {}))
    into = Checkpoint(live, {"optimizers": [other]})
    if backwards and how != "neither":
        before = copied(dict(live.state_dict()))
        with pytest.raises(StateMismatchError, match=r"in another order.*0\.weight there, 1\.weight here"):
            checkpointer.load(into=into)
        assert same(dict(live.state_dict()), before)
        assert not other.state
    else:  # what older files lack is not held against them
        checkpointer.load(into=into)
        assert other.state


def test_so_is_one_whose_parameters_are_those_of_several_live_modules(tmp_path):
    modules, others = [square() for _ in range(4)], [square() for _ in range(4)]
    whole = torch.nn.ModuleList(modules)
    optimizer = stepped(whole, torch.optim.AdamW(whole.parameters()))
    save({"modules": modules, "optimizer": optimizer}, tmp_path / "x.pt")
    other = torch.optim.AdamW(list(torch.nn.ModuleList(others).parameters())[::-1])
    with pytest.raises(StateMismatchError, match=r"in another order.*modules\[0\]\.0\.weight there"):
        load(tmp_path / "x.pt", into={"modules": others, "optimizer": other})


@pytest.mark.parametrize(
    "slot",
    [
        {"state": {}, "param_groups": [{"params": None}]},
        {"state": {}, "param_groups": [{"params": 3}]},
        {"state": {}, "param_groups": [{"params": [[1], [2]]}]},
        {"state": {0: {"exp_avg": 3}}, "param_groups": [{"params": [0, 1], "lr": None}]},
        "text",
        3,
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["optimizer", "module", "scheduler"])
def test_a_slot_that_holds_something_else_is_an_error_of_ours(make_checkpointer, slot, kind):
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    live = {
        "optimizer": optimizer,
        "module": module,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
    }[kind]
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint(None, {"slot": slot}), 0)
    if kind == "scheduler" and isinstance(slot, dict):  # takes any dict
        checkpointer.load(into=Checkpoint(None, {"slot": live}))
        return
    with pytest.raises(StateMismatchError, match=r"trainer_state\.slot"):
        checkpointer.load(into=Checkpoint(None, {"slot": live}))


def test_a_live_plain_value_is_told_to_be_ignored(make_checkpointer, caplog):
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint({"w": torch.ones(2)}, {"epoch": 3, "note": "x", "none": None}), 0)
    into = Checkpoint({"w": torch.zeros(2)}, {"epoch": 0, "note": "", "none": None})
    assert checkpointer.load(into=into).trainer_state["epoch"] == 3
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "trainer_state.epoch, trainer_state.note" in told
    assert "none" not in told


@pytest.mark.parametrize(
    ("in_file", "here", "told"),
    [
        (["module.a.w", "module.b.w"], ["a.w", "b.w"], "the file begin with the prefix 'module.'"),
        (["a.w", "b.w"], ["_orig_mod.a.w", "_orig_mod.b.w"], "here begin with the prefix '_orig_mod.'"),
        (["module._orig_mod.w"], ["w"], "the file begin with the prefix 'module._orig_mod.'"),
        (["model.net.w", "model.net.b", "loss.w"], ["w", "b"], "the prefix 'model.net.'"),
        (
            ["net._orig_mod.a.w", "head.w"],
            ["net.a.w", "head.w"],
            "the file have the prefix '_orig_mod.' within",
        ),
        (["net.a.w", "head.w"], ["net.module.a.w", "head.w"], "live object have the prefix 'module.' within"),
        (["module.a._orig_mod.w"], ["a.w"], "the file have the prefix '_orig_mod.', 'module.' within"),
        (["a.w"], ["b.w"], ""),
        (["module.a.w"], ["a.w", "c.w"], ""),
    ],
)
@pytest.mark.parametrize("hooked", [False, True])
def test_one_prefix_that_explains_all_missing_names_is_told_in_their_place(
    make_checkpointer, in_file, here, told, hooked
):
    live = torch.nn.Module()
    for name in here:
        *path, last = name.split(".")
        owner = live
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_parameter(last, torch.nn.Parameter(torch.zeros(1)))
    live.add_module("norm", torch.nn.BatchNorm1d(1, affine=False, track_running_stats=False))
    if hooked:
        live.register_load_state_dict_pre_hook(lambda *_: None)
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint({name: torch.ones(1) for name in in_file}), 0)
    with pytest.raises(StateMismatchError) as caught:
        checkpointer.load(into=Checkpoint(live))
    message = caught.value.what
    assert ("prefix" in message) is bool(told)
    assert told in message
    assert not told or "missing" not in message.lower()
