"""Tensors that are made of others are shown as what they are, and none is exported in parts."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.placement_types import Partial

from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.content.contents import NodeKind
from tests.support.contents import check_tensor, contents

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@pytest.fixture
def ranks() -> Iterator[None]:
    """A process group of two ranks of which only one is there: nothing is sent."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    torch.distributed.destroy_process_group()


def export(path: Path, capsys) -> tuple[int, str]:
    code = main(["export", str(path), "-o", str(path.with_name("o.pt")), "--force"])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("is_parameter", [False, True])
def test_a_shard_is_shown_with_its_global_shape_and_refused_by_name(ranks, tmp_path, capsys, is_parameter):
    made = DTensor.from_local(torch.ones(2, 4), init_device_mesh("cpu", (2,)), [Shard(0)])
    state = {"layer.w1": nn.Parameter(made) if is_parameter else made, "layer.b": torch.ones(4)}
    torch.save(state, tmp_path / "a.pt")
    (node, _) = contents(tmp_path / "a.pt").root.children
    assert node.kind is NodeKind.COMPOSITE
    assert node.label == "DTensor of float32 [4, 4], Shard(0), of which [2, 4] are in this file"
    code, said = export(tmp_path / "a.pt", capsys)
    assert code == 1
    assert "layer.w1 is no plain tensor: DTensor of float32 [4, 4]" in said
    assert "full_tensor()" in said


def test_a_sum_that_is_not_done_is_no_whole_although_it_has_the_shape(ranks, tmp_path, capsys):
    made = DTensor.from_local(torch.ones(4, 4), init_device_mesh("cpu", (2,)), [Partial()])
    torch.save({"w": made}, tmp_path / "a.pt")
    assert "Partial('sum')" in contents(tmp_path / "a.pt").root.children[0].label
    assert export(tmp_path / "a.pt", capsys)[0] == 1


def test_a_replica_is_the_tensor_that_it_is_of(ranks, tmp_path, capsys):
    whole = torch.arange(16.0).reshape(4, 4)
    made = DTensor.from_local(whole, init_device_mesh("cpu", (2,)), [Replicate()])
    torch.save({"w": made, "again": made}, tmp_path / "a.pt")
    found = contents(tmp_path / "a.pt")
    check_tensor(found.tensors[0], whole, tmp_path / "a.pt")
    assert [one.name for one in found.tensors] == ["w", "again"]
    assert main(["show", str(tmp_path / "a.pt")]) == 0
    assert "[4, 4], DTensor, Replicate()" in capsys.readouterr().out
    assert export(tmp_path / "a.pt", capsys)[0] == 0
    assert torch.equal(torch.load(tmp_path / "o.pt")["w"], whole)


def test_the_shard_of_a_single_rank_is_whole(tmp_path, capsys):
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    whole = torch.arange(16.0).reshape(4, 4)
    torch.save({"w": distribute_tensor(whole, init_device_mesh("cpu", (1,)), [Shard(0)])}, tmp_path / "a.pt")
    torch.distributed.destroy_process_group()
    assert export(tmp_path / "a.pt", capsys)[0] == 0
    assert torch.equal(torch.load(tmp_path / "o.pt")["w"], whole)


class Int8Tensor(torch.Tensor):
    """As torchao's of version 0.18: values of a byte, and a scale for each row."""

    @staticmethod
    def __new__(cls, qdata: torch.Tensor, scale: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(cls, qdata.shape, dtype=torch.bfloat16)

    def __init__(self, qdata: torch.Tensor, scale: torch.Tensor) -> None:
        self.qdata, self.scale, self.block_size = qdata, scale, [1, 4]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].qdata, args[0].scale)
        raise NotImplementedError(func)


@pytest.fixture
def torchao(monkeypatch):
    """Stands in for the package while a file is saved."""
    made = types.ModuleType("torchao")
    for name in ("torchao", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, made)
    made.Int8Tensor = Int8Tensor  # type: ignore[attr-defined]
    monkeypatch.setattr(Int8Tensor, "__module__", "torchao.quantization")
    return Int8Tensor


@pytest.mark.parametrize("is_parameter", [False, True])
def test_a_quantized_subclass_is_shown_with_its_parts_and_refused(torchao, tmp_path, capsys, is_parameter):
    made = torchao(torch.ones(4, 4, dtype=torch.int8), torch.ones(4, 1))
    weight = nn.Parameter(made, requires_grad=False) if is_parameter else made
    torch.save({"0.weight": weight, "0.bias": torch.ones(4)}, tmp_path / "a.pt")
    found = contents(tmp_path / "a.pt")
    node = found.root.children[0]
    assert (node.kind, node.label) == (NodeKind.COMPOSITE, "torchao Int8Tensor of bfloat16 [4, 4]")
    assert [one.name for one in found.tensors if one.in_state] == ["0.bias"]
    assert {child.key for child in node.children} >= {"qdata", "scale", "block_size"}
    for options in ([], ["--dequantize"]):
        arguments = ["export", str(tmp_path / "a.pt"), "-o", str(tmp_path / "o.pt"), *options]
        assert main(arguments) == 1
        assert "0.weight is no plain tensor: torchao Int8Tensor" in capsys.readouterr().err


def test_show_says_which_tensors_are_made_of_others(torchao, tmp_path, capsys):
    made = torchao(torch.ones(4, 4, dtype=torch.int8), torch.ones(4, 1))
    quantized = torch.quantize_per_tensor(torch.ones(4), 0.1, 3, torch.qint8)
    torch.save({"a": made, "b": quantized, "c": torch.ones(1)}, tmp_path / "a.pt")
    assert main(["show", str(tmp_path / "a.pt")]) == 0
    text = capsys.readouterr().out
    assert "in parts   2 tensors: a (torchao Int8Tensor of bfloat16 [4, 4]), b (qint8, " in text
    assert main(["show", str(tmp_path / "a.pt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["composites"] == [
        {"name": "a", "what": "torchao Int8Tensor of bfloat16 [4, 4]"},
        {"name": "b", "what": "qint8, per_tensor_affine, scale 0.1, zero point 3"},
    ]


def test_attributes_of_a_parameter_are_no_weights_of_their_own(tmp_path, capsys):
    parameter = nn.Parameter(torch.ones(3))
    parameter.weight_scale = torch.ones(1)
    torch.save({"w": parameter}, tmp_path / "a.pt")
    assert export(tmp_path / "a.pt", capsys)[0] == 0
    assert [*torch.load(tmp_path / "o.pt")] == ["w"]


def test_a_sparse_tensor_in_an_attribute_of_a_module_does_not_stop_its_export(tmp_path, capsys):
    module = nn.Linear(2, 2)
    module.graph = torch.eye(3).to_sparse()
    torch.save(module, tmp_path / "a.pt")
    assert export(tmp_path / "a.pt", capsys)[0] == 0
    assert {*torch.load(tmp_path / "o.pt")} == {"weight", "bias"}
