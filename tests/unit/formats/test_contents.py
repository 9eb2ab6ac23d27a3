"""What a file holds is told without torch, as torch would load it; values are read from their places."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from marlin_ckpt import Checkpoint, CorruptCheckpointError, NotACheckpointError, UnknownFormatError
from marlin_ckpt.formats.content.contents import Contents, Node, NodeKind, TensorInfo
from marlin_ckpt.formats.values import arrays
from marlin_ckpt.storage.local.files import open_source
from tests.support.contents import EIGHT_BITS, FORMATS, check_tensor, contents, contents_of, values

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "complex128", "complex64", "int64", "int32", "int16", "int8",
    "uint8", "uint16", "uint32", "uint64", "bool", *EIGHT_BITS,
]  # fmt: skip


def by_name(found: Contents) -> dict[str, TensorInfo]:
    assert len({one.name for one in found.tensors}) == len(found.tensors)
    return {one.name: one for one in found.tensors}


def some(name: str) -> torch.Tensor:
    """Twelve elements of a type, with all kinds of bits."""
    dtype = getattr(torch, name)
    size = torch.empty(0, dtype=dtype).element_size()
    bits = torch.randint(0, 256, (12 * size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return (bits & 1).to(torch.bool) if name == "bool" else bits.view(dtype)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", DTYPES)
def test_a_tensor_of_each_type_is_described_and_read_as_torch_does(tmp_path, name, kind):
    live = some(name)
    path = tmp_path / "a.pt"
    found = by_name(contents_of({"a": live, "view": live[1:9:2]}, path, kind))
    check_tensor(found["a"], live, path)
    check_tensor(found["view"], live[1:9:2], path)
    assert found["a"].storage == found["view"].storage


@pytest.mark.parametrize("kind", FORMATS)
def test_views_are_read_in_their_shape_whatever_their_strides(tmp_path, kind):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "transposed": base.t(), "diagonal": base.diagonal(), "expanded": base[:, :1].expand(4, 9),
        "windows": base.unfold(1, 3, 1), "rows": base[1:3], "one": base[2, 3], "empty": base[:0],
        "wide": torch.empty(0, 3, 2), "scalar": torch.tensor(3),
    }  # fmt: skip
    path = tmp_path / "a.pt"
    found = by_name(contents_of(state, path, kind))
    for name, live in state.items():
        check_tensor(found[name], live, path)


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_each_of_the_256_values_of_a_type_of_8_bits_is_torchs(tmp_path, name):
    live = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name))
    check_tensor(contents_of([live], tmp_path / "a.pt").tensors[0], live, tmp_path / "a.pt")


def test_each_bfloat16_is_exactly_the_float32_that_torch_makes_of_it(tmp_path):
    live = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    found = contents_of([live], tmp_path / "a.pt").tensors[0]
    with open_source(os.fspath(tmp_path / "a.pt")) as source:
        bits = arrays.read_bits(source, found)
    assert arrays.widened(bits, found.dtype).tobytes() == live.float().numpy().tobytes()
    np.testing.assert_array_equal(bits.view(np.int16), live.view(torch.int16).numpy())


@pytest.mark.parametrize("kind", FORMATS)
def test_shared_tensors_stand_under_each_of_their_names(tmp_path, kind):
    tied = nn.Parameter(torch.ones(2, 2))
    inner = {"weight": tied}
    found = contents_of({"a": inner, "b": inner, "c": tied}, tmp_path / "a.pt", kind)
    assert [one.name for one in found.tensors] == ["a.weight", "b.weight", "c"]
    assert len({one.storage for one in found.tensors}) == 1


def test_names_are_those_that_verify_gives_to_damaged_tensors(tmp_path):
    state = {"a": [torch.ones(1), {"b": (torch.ones(2), 3)}], 7: torch.ones(3)}
    assert [one.name for one in contents_of(state, tmp_path / "a.pt").tensors] == ["a[0]", "a[1].b[0]", "7"]


def test_a_bare_tensor_and_a_bare_storage_are_shown(tmp_path):
    (tensor,) = contents_of(torch.ones(3), tmp_path / "a.pt").tensors
    assert (tensor.name, tensor.shape) == ("", (3,))
    (tensor,) = contents_of(torch.ones(3).untyped_storage(), tmp_path / "a.pt").tensors
    assert (tensor.dtype, tensor.shape) == ("uint8", (12,))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_module_pickled_whole_is_shown_with_its_tensors(tmp_path, kind):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    found = contents_of(module, tmp_path / "a.pt", kind)
    assert [one.name for one in found.tensors] == [*module.state_dict()]
    assert (found.root.kind, found.root.label) == (NodeKind.MODULE, "torch.nn.modules.container.Sequential")
    assert "torch.nn.modules.linear.Linear" in found.imports


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:.*quantize:UserWarning")
def test_sparse_quantized_and_meta_tensors_are_shown_by_what_they_are_made_of(tmp_path):
    state = {
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(4), 0.1, 3, torch.qint8),
        "channels": torch.quantize_per_channel(
            torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.quint8
        ),
        "meta": torch.empty(5, device="meta"),
    }
    found = contents_of(state, tmp_path / "a.pt")
    tensors = by_name(found)
    assert {name.partition("[")[0] for name in tensors} == {*state} - {"meta"}
    assert values(tmp_path / "a.pt", tensors["sparse[1]"]).tolist() == [1, 1, 1]
    assert [*tensors].count("csr[2]") == 1
    assert (tensors["quantized"].dtype, tensors["channels"].dtype) == ("qint8", "quint8")
    assert values(tmp_path / "a.pt", tensors["quantized"]).tolist() == [13] * 4
    meta = found.root.children[-1]
    assert (meta.kind, "_rebuild_meta_tensor_no_storage" in meta.label) == (NodeKind.OBJECT, True)


def leaves(node: Node) -> dict[str, Any]:
    if node.kind is not NodeKind.VALUE:
        return {key: value for child in node.children for key, value in leaves(child).items()}
    return {node.key: node.value}


@pytest.mark.parametrize("kind", FORMATS)
def test_plain_values_are_in_the_tree(tmp_path, kind):
    plain = {
        "epoch": 3, "loss": 0.5, "name": "run", "done": False, "none": None, "betas": (0.9, 0.999),
        "names": ["a", "b"], "bytes": b"\x00\xff", "complex": 1j, "shape": torch.Size([2, 3]), "empty": [],
    }  # fmt: skip
    found = contents_of(collections.OrderedDict(plain), tmp_path / "a.pt", kind)
    assert leaves(found.root) == plain
    assert (found.root.kind, found.root.label) == (NodeKind.MAPPING, "OrderedDict")


def test_objects_are_named_and_never_made(tmp_path):
    state = {"n": argparse.Namespace(lr=0.1), "day": datetime.date(2026, 1, 2), "type": torch.float16}
    state["scalar"] = np.float64(1.5)
    found = contents_of(state, tmp_path / "a.pt")
    namespace, day, kind, scalar = found.root.children
    assert (namespace.label, leaves(namespace)) == ("argparse.Namespace", {"lr": 0.1})
    assert day.label.startswith("datetime.date(")
    assert kind.label == "torch.float16"
    assert (scalar.label, scalar.value) == ("numpy.float64", 1.5)
    assert {"argparse.Namespace", "datetime.date", "numpy.dtype"} <= {*found.imports}


def test_each_protocol_of_pickle_is_read(tmp_path):
    state = {"a": torch.ones(2), "b": [1, {2}, b"bytes", "text", 2**70]}
    for protocol in (2, 3, 4, 5):
        torch.save(state, tmp_path / "a.pt", pickle_protocol=protocol)
        found = contents(tmp_path / "a.pt")
        assert [one.name for one in found.tensors] == ["a"]
        assert len(found.root.children) == 2


def test_our_own_file_is_shown_with_its_manifest(tmp_path, make_checkpointer):
    state = Checkpoint({"weight": torch.ones(2)}, {"epoch": 3}, {}, metrics={"loss": 0.5})
    path = make_checkpointer().save(state, 3)
    found = contents(path)
    assert (found.format, found.manifest.index, found.manifest.metrics) == ("zip", 3, {"loss": 0.5})
    assert found.size_bytes == os.path.getsize(path)
    assert [node.key for node in found.root.children] == [
        "module_interface_state", "trainer_state", "trainer_backend_state",
    ]  # fmt: skip
    (tensor,) = found.tensors
    assert tensor.name == "module_interface_state.weight"
    assert values(path, tensor).tolist() == [1, 1]


def test_a_safetensors_file_is_shown_in_torchs_names(tmp_path):
    path = tmp_path / "a.safetensors"
    state = {name: some(name) for name in DTYPES if name not in ("complex128", *EIGHT_BITS[1:])}
    save_file(state, path, {"format": "pt"})
    found = contents(path)
    assert found.format == "safetensors"
    assert leaves(found.root) == {"format": "pt"}
    assert {*by_name(found)} == {*state}
    for name, live in state.items():
        check_tensor(by_name(found)[name], live, path)


def test_a_big_endian_file_is_read_in_its_order(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.tensor([1.0, -2.5])}, path)
    content = path.read_bytes()
    little = np.array([1.0, -2.5], "<f4").tobytes()
    path.write_bytes(content.replace(little, np.array([1.0, -2.5], ">f4").tobytes()))
    (tensor,) = contents(path).tensors
    swapped = replace(tensor, byteorder="big")
    assert values(path, swapped).tolist() == [1.0, -2.5]


@given(state=st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
))  # fmt: skip
def test_any_plain_state_comes_back_from_the_tree(state):
    path = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"contents{os.getpid()}.pt"
    try:
        root = contents_of(state, path).root
    finally:
        path.unlink()

    def plain(node: Node) -> Any:
        if node.kind is NodeKind.VALUE:
            return node.value
        if node.kind is NodeKind.MAPPING:
            return {child.key: plain(child) for child in node.children}
        return [plain(child) for child in node.children]

    assert plain(root) == state


@given(shape=st.lists(st.integers(0, 4), max_size=4), data=st.data())
def test_contiguity_is_as_torch_sees_it(shape, data):
    live = torch.empty(shape)
    order = data.draw(st.permutations(range(len(shape))))
    live = live.permute(order)[(slice(None, None, data.draw(st.integers(1, 2))),) * bool(shape)]
    told = TensorInfo("", "float32", tuple(live.shape), live.stride(), live.storage_offset(), "", 0, 0)
    assert told.is_contiguous == live.is_contiguous()
    assert told.numel == math.prod(live.shape)


def test_a_tensor_that_does_not_fit_its_storage_is_told_when_it_is_read(tmp_path):
    (tensor,) = contents_of([torch.ones(4)], tmp_path / "a.pt").tensors
    fields = {name: getattr(tensor, name) for name in TensorInfo.__slots__}
    for lie in (
        {"offset": 1}, {"offset": -1}, {"shape": (5,)}, {"stride": (2,)}, {"stride": (-1,)}, {"shape": (-4,)},
        {"start": 10**9}, {"storage_bytes": 0}, {"shape": (2**62,)},
    ):  # fmt: skip
        with pytest.raises(CorruptCheckpointError):
            values(tmp_path / "a.pt", TensorInfo(**{**fields, **lie}))


def test_a_type_that_is_not_known_has_a_size_and_no_values(tmp_path):
    (found,) = contents_of([torch.zeros(4, dtype=torch.uint8)], tmp_path / "a.pt").tensors
    tensor = dataclasses.replace(found, dtype="float3_new")
    assert (tensor.item_bytes, tensor.size_bytes) == (0, 4)
    with pytest.raises(UnknownFormatError):
        values(tmp_path / "a.pt", tensor)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_corrupt(tmp_path, kind):
    path = tmp_path / "a.pt"
    contents_of({"a": torch.ones(1000)}, path, kind)
    whole = path.read_bytes()
    for length in (40, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises((CorruptCheckpointError, NotACheckpointError)):
            contents(path)


def test_a_pickle_with_a_flipped_bit_is_corrupt(tmp_path):
    path = tmp_path / "a.pt"
    contents_of({"some_name": torch.ones(10)}, path)
    path.write_bytes(path.read_bytes().replace(b"some_name", b"same_name"))
    with pytest.raises(CorruptCheckpointError, match="CRC"):
        contents(path)


def test_an_array_of_very_many_plain_objects_is_one_place(tmp_path):
    state = {"labels": np.array(["cat", None] * 100_000, dtype=object)}
    (node,) = contents_of(state, tmp_path / "labels.pt").root.children
    assert (node.label, node.children) == ("numpy array of object, [200000]", ())
