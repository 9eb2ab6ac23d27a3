"""Tensors of dtypes that numpy lacks are shown, compared bit for bit, and copied or refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from marlin_ckpt import errors
from marlin_ckpt.formats.values.distribution import checked_distributions
from marlin_ckpt.operations import average, diff, export
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.one import opened
from marlin_ckpt.operations.weights_file import WeightsFile
from tests.support.state_files import write_states

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

# Of 16 bytes each; the ones that safetensors files hold too come first.
IN_SAFETENSORS = [torch.float4_e2m1fn_x2, torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
DTYPES = [*IN_SAFETENSORS, torch.complex32, torch.bits8, torch.bits1x8, torch.bits4x2, torch.bits16]


def of_bytes(dtype: torch.dtype, *last: int) -> torch.Tensor:
    return torch.tensor([*range(16 - len(last)), *last], dtype=torch.uint8).view(dtype)


def compare(a: Path, b: Path) -> diff.Comparison:
    with opened(str(a)) as before, opened(str(b)) as after:
        return diff.compare(before, after)


def run_export(source: Path, output: Path, **wanted) -> dict[str, torch.Tensor]:
    with opened(str(source)) as file:
        export.export(file, WeightsFile(str(output)), Wanted(**wanted))
    return load_file(output) if output.suffix == ".safetensors" else torch.load(output, weights_only=True)


def safetensors_file(path: Path, code: str, shape: list[int], data: bytes) -> Path:
    header = json.dumps({"w": {"dtype": code, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_dtype_has_its_size_and_one_changed_bit_is_told(tmp_path, dtype):
    a, b = write_states(tmp_path, {"w": of_bytes(dtype)}, {"w": of_bytes(dtype, 14)})
    with opened(str(a)) as file:
        assert file.contents.tensors[0].size_bytes == 16
    assert compare(a, a).is_same
    (one,) = compare(a, b).tensors
    assert (one.change, one.distance.differing) == ("changed", 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_dtype_is_copied_to_a_state_dict_bit_for_bit(tmp_path, dtype):
    (a,) = write_states(tmp_path, {"w": of_bytes(dtype).reshape(2, -1)})
    copied = run_export(a, tmp_path / "o.pt")["w"]
    assert (copied.dtype, copied.shape[0]) == (dtype, 2)
    assert copied.view(torch.uint8).flatten().tolist() == list(range(16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_safetensors_hold_it_or_refuse_it_by_name(tmp_path, dtype):
    (a,) = write_states(tmp_path, {"w": of_bytes(dtype).reshape(2, -1)})
    if dtype in IN_SAFETENSORS:
        copied = run_export(a, tmp_path / "o.safetensors")["w"]
        assert (copied.dtype, copied.shape) == (dtype, (2, 8))
        assert copied.view(torch.uint8).flatten().tolist() == list(range(16))
        assert compare(a, tmp_path / "o.safetensors").is_same
    else:
        with pytest.raises(errors.UnsavableStateError, match=f"hold no {str(dtype)[6:]}, the dtype of w"):
            run_export(a, tmp_path / "o.safetensors")


@pytest.mark.parametrize(("code", "size"), [("F6_E2M3", 12), ("F6_E3M2", 12), ("F4", 8), ("F9_NEW", 7)])
def test_parts_of_bytes_in_safetensors_are_shown_compared_and_copied(tmp_path, code, size):
    a = safetensors_file(tmp_path / "a.safetensors", code, [2, 8], bytes(range(size)))
    b = safetensors_file(tmp_path / "b.safetensors", code, [2, 8], bytes([*range(size - 1), 99]))
    with opened(str(a)) as file:
        assert file.contents.tensors[0].size_bytes == size
    assert compare(a, a).is_same
    assert [one.change for one in compare(a, b).tensors] == ["changed"]
    if code.startswith("F6"):
        with opened(str(a)) as file:
            export.export(file, WeightsFile(str(tmp_path / "o.safetensors")), Wanted())
        assert (tmp_path / "o.safetensors").read_bytes().endswith(bytes(range(size)))
        assert [one.change for one in compare(a, tmp_path / "o.safetensors").tensors] == ["same"]
        with pytest.raises(errors.UnsavableStateError, match="no plain tensor is of the dtype float6"):
            run_export(a, tmp_path / "o.pt")


def test_the_values_of_float4_are_those_of_its_specification(tmp_path):
    (a,) = write_states(
        tmp_path, {"w": torch.tensor([0x72, 0x0F], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
    )
    with opened(str(a)) as file:
        (found,) = checked_distributions(file, file.contents.tensors)
    assert (found.statistics.minimum, found.statistics.maximum, found.mean) == (-6, 6, (1 + 6 - 6 + 0) / 4)


def test_the_values_of_complex32_are_those_of_torch(tmp_path):
    value = torch.tensor([3 + 4j, 0, 1j], dtype=torch.complex64).to(torch.complex32)
    a, b = write_states(tmp_path, {"w": value}, {"w": torch.zeros(3, dtype=torch.complex32)})
    with opened(str(a)) as file:
        (found,) = checked_distributions(file, file.contents.tensors)
    assert (found.statistics.minimum, found.statistics.maximum) == (0, 5)
    (one,) = compare(a, b).tensors
    assert (one.distance.differing, one.distance.maximum) == (2, 5)
    output = WeightsFile(str(tmp_path / "mean.pt"))
    with opened(str(a)) as first, opened(str(b)) as second:
        average.average([first, second], output, Wanted())
    assert torch.equal(torch.load(output.path)["w"].to(torch.complex64), value.to(torch.complex64) / 2)


@pytest.mark.parametrize("dtype", ["bfloat16", None])
def test_float4_is_neither_averaged_nor_rounded(tmp_path, dtype):
    (a,) = write_states(tmp_path, {"w": of_bytes(torch.float4_e2m1fn_x2)})
    with opened(str(a)) as file, pytest.raises(errors.UnsavableStateError, match="float4_e2m1fn_x2"):
        average.average([file, file], WeightsFile(str(tmp_path / "o.pt")), Wanted(dtype=dtype))
    with (
        opened(str(a)) as file,
        pytest.raises(errors.UnsavableStateError, match="w is float4_e2m1fn_x2"),
    ):
        export.export(file, WeightsFile(str(tmp_path / "o.pt")), Wanted(dtype="bfloat16"))
    assert not (tmp_path / "o.pt").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.quint4x2, torch.qint8, torch.quint8], ids=str)
def test_quantized_tensors_are_compared_bit_for_bit(tmp_path, dtype):
    scales = torch.ones(2) / 10, torch.zeros(2)

    def quantized(*values: float) -> torch.Tensor:
        return torch.quantize_per_channel(torch.tensor([values, values]), *scales, 0, dtype)

    a, b = write_states(tmp_path, {"w": quantized(0.1, 0.2, 0.3)}, {"w": quantized(0.1, 0.2, 0.7)})
    assert compare(a, a).is_same
    assert not compare(a, b).is_same
    with opened(str(a)) as file:
        assert file.contents.tensors[0].size_bytes > 0


@pytest.mark.parametrize("name", ["o.pt", "o.safetensors"])
def test_a_file_that_is_one_tensor_is_exported_under_a_name(tmp_path, name):
    (a,) = write_states(tmp_path, torch.arange(3.0))
    assert {key: one.tolist() for key, one in run_export(a, tmp_path / name).items()} == {
        "tensor": [0.0, 1.0, 2.0]
    }
