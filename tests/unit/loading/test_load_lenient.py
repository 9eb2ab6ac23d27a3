"""`load(..., strict=False)`: loads what fits, and reports the rest."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import marlin_ckpt
from marlin_ckpt import ArgumentsError, StateMismatchError
from tests.support.restored import copied, net, same, trained


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.pt"


def classifier(classes: int = 2) -> nn.ModuleDict:
    return nn.ModuleDict({"body": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4), "head": nn.Linear(4, classes)})


def test_what_fits_of_a_module_is_loaded_and_the_rest_is_as_it_was(path):
    saved, live = classifier(), classifier(5)
    state = saved.state_dict()
    del state["body.bias"]
    torch.save({"model": {**state, "extra.weight": torch.ones(1)}, "epoch": 4}, path)
    before = copied(dict(live.state_dict()))
    report = marlin_ckpt.load(path, into={"model": live}, strict=False)
    assert report.missing == ("model.body.bias",)
    assert report.unexpected == ("model.extra.weight",)
    assert report.mismatched == {
        "model.head.weight": "is (2, 4) in the file, (5, 4) here",
        "model.head.bias": "is (2,) in the file, (5,) here",
    }
    assert set(report.loaded) == {f"model.{name}" for name in state if not name.startswith("head")}
    assert (report.state["model"], report.state["epoch"], report.is_complete) == (live, 4, False)
    for name, tensor in live.state_dict().items():
        expected = state[name] if f"model.{name}" in report.loaded else before[name]
        assert torch.equal(tensor, expected), name


def test_where_all_fits_the_report_is_complete_and_the_state_that_of_a_strict_call(path):
    module = classifier()
    optimizer = trained(module)
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)
    live = classifier()
    moments = trained(live, 0)
    report = marlin_ckpt.load(path, into={"model": live, "optimizer": moments, "epoch": 0}, strict=False)
    assert report.is_complete
    assert report.loaded == (*(f"model.{name}" for name in module.state_dict()), "optimizer")
    assert report.state == {"model": live, "optimizer": moments, "epoch": 3}
    assert same(dict(live.state_dict()), dict(module.state_dict()))
    assert same(moments.state_dict(), optimizer.state_dict())


def test_an_optimizer_is_loaded_as_a_whole_or_not_at_all(path):
    module = classifier()
    torch.save({"model": module.state_dict(), "optimizer": trained(module).state_dict()}, path)
    live = classifier(5)
    moments = trained(live, 1)
    before = copied(moments.state_dict())
    report = marlin_ckpt.load(path, into={"model": live, "optimizer": moments}, strict=False)
    assert "optimizer" not in report.loaded
    assert "(2, 4) in the file, (5, 4) here" in report.mismatched["optimizer"]
    assert same(moments.state_dict(), before)


def test_what_is_missing_in_the_file_is_named_and_stands_in_the_result(path):
    torch.save({"tensors": [torch.ones(2), torch.ones(3), None]}, path)
    live, scheduled = net(), trained(net(), 0)
    tensors = [torch.zeros(2), torch.zeros(4), torch.zeros(1)]
    report = marlin_ckpt.load(
        path, into={"model": live, "optimizer": scheduled, "epoch": 7, "tensors": tensors}, strict=False
    )
    assert report.missing == ("model", "optimizer", "epoch")
    assert report.loaded == ("tensors[0]",)
    assert report.mismatched == {
        "tensors[1]": "is (3,) in the file, (4,) here",
        "tensors[2]": "is None in the file",
    }
    assert report.state["model"] is live
    assert report.state["epoch"] == 7
    assert [one.tolist() for one in tensors] == [[1, 1], [0, 0, 0, 0], [0]]
    assert report.state["tensors"][1] is tensors[1]


def test_a_bare_module_and_a_bare_optimizer_have_names_too(path):
    torch.save(classifier().state_dict(), path)
    report = marlin_ckpt.load(path, into=classifier(3), strict=False)
    assert list(report.mismatched) == ["head.weight", "head.bias"]
    optimizer = trained(net())
    report = marlin_ckpt.load(path, into=optimizer, strict=False)
    assert (report.loaded, list(report.mismatched)) == ((), ["(the whole)"])
    assert report.state is optimizer


def test_a_bare_tensor_of_integers_that_are_too_large_is_mismatched(path):
    torch.save(torch.tensor([300]), path)
    live = torch.zeros(1, dtype=torch.int8)
    report = marlin_ckpt.load(path, into=live, strict=False)
    assert (report.loaded, list(report.mismatched), live.tolist()) == ((), ["(the whole)"], [0])


def test_where_nothing_is_loaded_the_log_says_what_to_type(path, caplog):
    torch.save({"model": nn.ModuleDict({"module": net()}).state_dict()}, path)
    report = marlin_ckpt.load(path, into={"model": net()}, strict=False)
    assert report.loaded == ()
    assert "strip_prefix='module.'" in caplog.text
    caplog.clear()
    marlin_ckpt.load(path, into=net(), strict=False)
    assert 'into={"model": module}' in caplog.text
    assert marlin_ckpt.load(path, into={"model": net()}, strict=False, strip_prefix="module.").is_complete


def test_a_module_that_changes_its_states_says_itself_what_it_lacks(path):
    class Renaming(nn.Linear):
        def _load_from_state_dict(self, state, prefix, *arguments):
            state[f"{prefix}weight"] = state.pop(f"{prefix}kernel")
            super()._load_from_state_dict(state, prefix, *arguments)

    live = nn.Sequential(Renaming(2, 2, bias=False), nn.Linear(2, 2))
    torch.save({"0.kernel": torch.ones(2, 2), "1.weight": torch.ones(2, 2), "2.weight": torch.ones(1)}, path)
    report = marlin_ckpt.load(path, into=live, strict=False)
    assert (report.missing, report.unexpected) == (("1.bias",), ("2.weight",))
    assert torch.equal(live[0].weight, torch.ones(2, 2))


def test_an_object_that_refuses_its_state_is_mismatched_and_the_others_are_loaded(path):
    class Refusing:
        def load_state_dict(self, _state):
            raise KeyError("no")

    torch.save({"a": {"x": 1}, "b": torch.ones(2)}, path)
    live = torch.zeros(2)
    report = marlin_ckpt.load(path, into={"a": Refusing(), "b": live}, strict=False)
    assert report.loaded == ("b",)
    assert "KeyError" in report.mismatched["a"] or "no" in report.mismatched["a"]
    assert live.tolist() == [1, 1]


def test_tied_tensors_that_differ_in_the_file_are_mismatched(path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2, bias=False)
            self.other = nn.Linear(2, 2, bias=False)
            self.other.weight = self.one.weight

    live = Tied()
    before = live.one.weight.detach().clone()
    torch.save({"one.weight": torch.ones(2, 2), "other.weight": torch.zeros(2, 2)}, path)
    report = marlin_ckpt.load(path, into=live, strict=False)
    assert (report.loaded, set(report.mismatched)) == ((), {"one.weight", "other.weight"})
    assert torch.equal(live.one.weight, before)


def test_without_into_there_is_nothing_to_fit(path):
    torch.save({}, path)
    with pytest.raises(ArgumentsError, match="strict: expected true without `into`"):
        marlin_ckpt.load(path, strict=False)


def test_a_prefix_that_is_nowhere_is_an_error_here_too(path):
    torch.save({"model": net().state_dict()}, path)
    with pytest.raises(StateMismatchError, match="no name of a module"):
        marlin_ckpt.load(path, into={"model": net()}, strict=False, strip_prefix="module.")


def test_a_report_can_be_pickled_and_says_in_a_line_what_it_found(path):
    torch.save({"b": torch.ones(2)}, path)
    report = marlin_ckpt.load(path, into={"a": torch.ones(1), "b": torch.ones(2)}, strict=False)
    assert str(report) == "1 loaded, 1 missing"
    assert pickle.loads(pickle.dumps(report)).missing == ("a",)
