"""Modules pickled whole are shown and exported under the names of their state_dict, without their code."""

from __future__ import annotations

import collections
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from marlin_ckpt.formats.content.contents import NodeKind
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.operations import export, one, selection
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.weights_file import WeightsFile
from tests.support.contents import FORMATS, contents, contents_of
from tests.support.torch_records import records

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Detector(nn.Module):
    """As a detector of a zoo: nested, with tied weights, and with all that a state_dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.LSTM(3, 2))
        self.head = nn.Linear(2, 3)
        self.head.weight = self.model[0].weight
        self.again = self.model[1]
        self.register_buffer("anchors", torch.arange(4.0))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.register_parameter("absent", None)
        self.stride = torch.tensor([8.0, 16.0])
        self.names = ["person", "bicycle"]
        self.layers = [nn.Linear(1, 1)]
        self.whole = [self]


@pytest.fixture
def gone(monkeypatch):
    """Makes modules of a class that cannot be imported any more when the file is read."""
    module = types.ModuleType("zoo")
    made = type("Detector", (Detector,), {"__module__": "zoo", "__qualname__": "Detector"})
    module.Detector = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zoo", module)
    yield made
    monkeypatch.undo()


def exported(source: Path, target: Path, **wanted: Any) -> dict[str, torch.Tensor]:
    with one.opened(str(source)) as file:
        export.export(file, WeightsFile(str(target), force=True), Wanted(**wanted))
    return load_file(target) if target.suffix == ".safetensors" else torch.load(target)


def same(found: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("wrap", ["bare", "model", "ema", "older"])
def test_the_weights_of_a_module_come_out_as_its_state_dict(gone, tmp_path, kind, wrap):
    module, other = gone(), gone()
    states = {
        "bare": module,
        "model": {"epoch": 3, "model": module, "ema": other, "optimizer": {"m": torch.ones(1)}},
        "ema": {"epoch": 3, "model": None, "ema": module, "optimizer": {"m": torch.ones(1)}},
        "older": {"net": module, "optimizer": {"m": torch.ones(1)}},
    }
    found = contents_of(states[wrap], tmp_path / "a.pt", kind)
    del sys.modules["zoo"]
    names = {"bare": "", "older": "net"}
    assert selection.module_state(found) == names.get(wrap, wrap)
    got = exported(tmp_path / "a.pt", tmp_path / "o.pt")
    assert same(got, module.state_dict())
    assert got["head.weight"].data_ptr() == got["model.0.weight"].data_ptr()
    if wrap == "model":
        assert same(exported(tmp_path / "a.pt", tmp_path / "o.pt", state="ema"), other.state_dict())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_names_are_those_of_the_state_dict_in_each_protocol(gone, tmp_path, protocol):
    module = gone()
    torch.save(module, tmp_path / "a.pt", pickle_protocol=protocol)
    found = contents(tmp_path / "a.pt")
    assert [one.name for one in found.tensors if one.in_state] == [*module.state_dict()]
    beside = {one.name for one in found.tensors if not one.in_state}
    assert beside >= {"scratch", "stride", "layers[0].weight"}
    shown = {node.key: node for node in found.root.children}
    assert (found.root.kind, found.root.label) == (NodeKind.MODULE, "zoo.Detector")
    assert shown["names"].value == ["person", "bicycle"]
    assert not [key for key in shown if key.endswith("_hooks")]
    assert "_parameters" not in shown


def test_a_buffer_that_is_not_persistent_in_one_module_is_kept_in_another(tmp_path):
    module = nn.Sequential(nn.Module(), nn.Module())
    module[0].register_buffer("a", torch.zeros(1), persistent=False)
    module[1].register_buffer("a", torch.zeros(1))
    found = contents_of(module, tmp_path / "a.pt")
    assert [one.name for one in found.tensors if one.in_state] == ["1.a"]


def test_a_graph_module_of_fx_is_a_module(tmp_path):
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    found = contents_of({"model": graph}, tmp_path / "a.pt")
    assert [one.name for one in found.tensors if one.in_state] == ["model.0.weight", "model.0.bias"]


def test_a_dict_that_python_2_pickled_has_the_names_of_its_items(tmp_path):
    class Old:
        def __reduce__(self) -> Any:
            return collections.OrderedDict, ([["a.weight", torch.ones(2)], ["a.bias", torch.zeros(1)]],)

    found = contents_of({"state_dict": Old()}, tmp_path / "a.pt")
    assert [one.name for one in found.tensors] == ["state_dict.a.weight", "state_dict.a.bias"]


def test_a_damaged_record_of_a_module_is_named_as_in_its_state_dict(tmp_path):
    torch.save(nn.Sequential(nn.Linear(64, 64)), tmp_path / "a.pt")
    at, _ = records(tmp_path / "a.pt")["data/0"]
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[at] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    assert verify(str(tmp_path / "a.pt")).tensors == ("0.weight",)


def test_what_only_looks_like_a_module_is_shown_as_what_it_is(tmp_path):
    state = {"_parameters": {}, "_buffers": {}, "_modules": 3, "w": torch.ones(1)}
    found = contents_of({"x": state}, tmp_path / "a.pt")
    assert [one.name for one in found.tensors] == ["x.w"]
    assert found.root.children[0].kind is NodeKind.MAPPING
