"""Quantized tensors are refused by `export`, or written as the values that they stand for, never in parts."""

from __future__ import annotations

import functools
import json
import struct
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from marlin_ckpt.cli.main import main
from tests.support.state_files import write_state

pytestmark = pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore::DeprecationWarning")

# What bitsandbytes 0.50.2 made of 3 x 23 random values by quantize_4bit, the maps of its four bits, and what
# its dequantize_4bit made of these.
NF4 = (
    "000080bfb13932bf306b06bfa032cabe4da291be3f353dbe7178babd00000000fffaa23de3ca243edd047c3e3a03ad3eb8a4e13e"
    "ab07103fb313393f0000803f"
)
FP4 = (
    "00000000abaaaa3babaa2a3f0000803fabaaaa3e0000003fabaa2a3e0000803e00000000abaaaabbabaa2abf000080bfabaaaabe"
    "000000bfabaa2abe000080be"
)
GOLDEN = {
    "nf4": (
        NF4, "bfloat16",
        "7947a6e17686b8a98b51ca67afe2c9f656597793688a37ab5f56ad3cbce2c431def307",
        {"absmax": "00001c400000163f"},
        ("0000c93e31bf00001a3f63bee23fd9bf000063be473e63be533f473e1a3fc93e473e533fe7bed9bf8a3f1a3f63be00001a3f1c40"
         "e23fa4bf8a3fc93e1c4063bee7be63bee7bec93e00000000c93e76bf63be473e473e1a3f76bf00001a3f533fe7be1c40e7be63be"
         "1a3fb03f76bf8a3f533f8a3fe23fa4bf8a3f31bf76bfd9bfa93ed93e163f6dbe16bf"),
    ),
    "fp4": (
        FP4, "float32",
        "716d55fac59feeecf1ece667da9c397c453e56ae529f26f6cc66d4fa6642da469ab210",
        {"absmax": "0e912e4018269d3f"},
        ("0e912e3f68c1683c68c1e83e0e91aebf0e91ae3f0e91ae3f0e912ebf68c1e8bf68c168bf0e91ae3f68c168bc0e912ebf68c1e8be"
         "68c1e8be68c1e8be68c168bf0e912ebf68c1683c68c1e8be68c168bf68c1e8be68c1e83e68c1e83e0e912e3f0e91aebf68c1e8bf"
         "68c168bc68c168bf0e912e4068c168bc0e912e3f68c168bf68c1683f0e91ae3f0e912e4068c1e8be0e91ae3f68c1e83e68c1e8bf"
         "68c1e8be0e91ae3f68c1e83f68c168bc0e912ebf68c1e83f68c1e83e0e912ebf68c1e83e68c168bf68c168bf68c1e83e68c1e83e"
         "0e91aebf68c1683f0e912ebf68c1e8bf68c1e83e68c1e83e68c1683f68c1e83f0e91aebf68c1e8bf68c1683f68c1e83e2088d1bb"
         "208851bf18269dbf2088513f2088d13b"),
    ),
    "nf4 with quantized scales": (
        NF4, "float16",
        "9269847674694ad6b67aa9bdc24cab9464036847f48b77773544227ec745415b80b7e7",
        {"absmax": "ff00", "nested_absmax": "00201d3f"},
        ("c43684bda7b3c436b132fab90000a7b30000fab9a7b3c436fab92c39e93da7b31a3ba7b300002c392c39c4361a3be93da23c84bd"
         "fab9a23c2c391a3bc436fab9a7b3fab941c126bca7b3b132fab900004141fab9b1321a3b000000000000000026bcc4b7fab9fab9"
         "84bd84bd0000993fa23c0000fab9c4b7fab951bfc4b71a3b262f9dbd973700000f3c"),
    ),
}  # fmt: skip
OFFSET = 2.0131838321685791  # of the third, beside the scale of its scales


def floats(text: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=dtype).clone()


def four_bits(name: str, key: str = "layer.weight", **changes: Any) -> dict[str, torch.Tensor]:
    """The entries of a state dict by bitsandbytes."""
    levels, dtype, packed, scales, _ = GOLDEN[name]
    kind = name.partition(" ")[0]
    about = {"quant_type": kind, "blocksize": 64, "dtype": dtype, "shape": [3, 23]}
    state = {key: floats(packed, torch.uint8)[:, None], f"{key}.quant_map": floats(levels)}
    is_nested = "nested_absmax" in scales
    state[f"{key}.absmax"] = floats(scales["absmax"], torch.uint8 if is_nested else torch.float32)
    if is_nested:
        about |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": OFFSET}
        state[f"{key}.nested_absmax"] = floats(scales["nested_absmax"])
        levels = torch.zeros(256)
        levels[0], levels[255] = struct.unpack("<f", bytes.fromhex("33337ebf"))[0], 1  # the two that are used
        state[f"{key}.nested_quant_map"] = levels
    text = json.dumps(about | changes).encode()
    state[f"{key}.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(text), dtype=torch.uint8)
    return state


@pytest.fixture
def save(tmp_path):
    """Writes a state to a file, and gives its path."""
    return functools.partial(write_state, tmp_path)


def refused(capsys, *arguments: object) -> str:
    assert main(["export", *map(str, arguments)]) in (1, 3)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("kind", ["source.pt", "source.safetensors"])
def test_four_bits_of_bitsandbytes_become_the_values_that_it_makes_of_them(tmp_path, capsys, name, kind):
    state = {**four_bits(name), "layer.bias": torch.ones(3)}
    source, target = tmp_path / kind, tmp_path / "o.safetensors"
    (torch.save if kind.endswith("pt") else save_file)(state, source)
    said = refused(capsys, source, "-o", target)
    assert f"layer.weight is quantized: {name[:3]} of bitsandbytes" in said
    assert "--dequantize" in said
    assert not target.exists()
    assert main(["export", str(source), "-o", str(target), "--dequantize"]) == 0
    found = load_file(target)
    assert {*found} == {"layer.weight", "layer.bias"}
    dtype = getattr(torch, GOLDEN[name][1])
    assert (found["layer.weight"].dtype, found["layer.weight"].shape) == (dtype, (3, 23))
    np.testing.assert_array_equal(
        found["layer.weight"].view(torch.uint8), floats(GOLDEN[name][4], dtype).view(3, 23).view(torch.uint8)
    )


def test_eight_bits_of_bitsandbytes_are_scaled_by_rows(save, tmp_path, capsys):
    whole, scales = torch.randint(-127, 128, (4, 6), dtype=torch.int8), torch.tensor([0.5, 1.0, 2.0, 8.0])
    state = {"fc.weight": whole, "fc.SCB": scales, "fc.weight_format": torch.tensor(0, dtype=torch.uint8)}
    assert "8 bits of bitsandbytes" in refused(capsys, save(state), "-o", tmp_path / "o.pt")
    assert main(["export", str(save(state)), "-o", str(tmp_path / "o.pt"), "--dequantize"]) == 0
    found = torch.load(tmp_path / "o.pt")
    assert [*found] == ["fc.weight"]
    torch.testing.assert_close(found["fc.weight"], whole * scales[:, None] / 127)
    state["fc.weight_format"] += 1
    said = refused(capsys, save(state), "-o", tmp_path / "p.pt", "--dequantize")
    assert "in the order of some processor" in said


TORCHS = {
    "signed": lambda x: torch.quantize_per_tensor(x, 0.05, -3, torch.qint8),
    "unsigned": lambda x: torch.quantize_per_tensor(x, 0.02, 128, torch.quint8),
    "32 bits": lambda x: torch.quantize_per_tensor(x, 1e-4, 7, torch.qint32),
    "rows": lambda x: torch.quantize_per_channel(x, torch.rand(4) + 0.01, torch.arange(4), 0, torch.qint8),
    "columns": lambda x: torch.quantize_per_channel(
        x, torch.rand(6) + 0.01, torch.arange(6), 1, torch.quint8
    ),
    "turned": lambda x: torch.quantize_per_tensor(x.t(), 0.05, 0, torch.qint8),
}


@pytest.mark.parametrize("make", TORCHS.values(), ids=TORCHS)
@pytest.mark.parametrize("target", ["o.pt", "o.safetensors"])
def test_what_torch_quantized_becomes_what_its_dequantize_makes_of_it(save, tmp_path, capsys, make, target):
    quantized = make(torch.randn(4, 6))
    source = save({"q": quantized, "w": torch.ones(2)})
    said = refused(capsys, source, "-o", tmp_path / target)
    assert "q is quantized: q" in said
    assert "affine" in said
    assert main(["export", str(source), "-o", str(tmp_path / target), "--dequantize"]) == 0
    found = load_file(tmp_path / target) if target.endswith("s") else torch.load(tmp_path / target)
    assert {*found} == {"q", "w"}
    torch.testing.assert_close(found["q"], quantized.dequantize().contiguous(), rtol=1e-6, atol=1e-6)


def test_the_values_are_rounded_to_the_dtype_that_is_asked_for(save, tmp_path):
    source, target = save(four_bits("fp4")), tmp_path / "o.safetensors"
    assert main(["export", str(source), "-o", str(target), "--dequantize", "--dtype", "bf16"]) == 0
    expected = floats(GOLDEN["fp4"][4]).view(3, 23).to(torch.bfloat16)
    assert torch.equal(load_file(target)["layer.weight"], expected)


def test_average_refuses_them(save, tmp_path, capsys):
    source = str(save(four_bits("nf4")))
    assert main(["average", source, source, "-o", str(tmp_path / "o.pt")]) == 1
    assert "layer.weight is quantized" in capsys.readouterr().err


def test_only_what_is_wanted_is_refused(save, tmp_path):
    source = save({**four_bits("nf4"), "norm.weight": torch.ones(2)})
    assert main(["export", str(source), "-o", str(tmp_path / "o.pt"), "--strip-prefix", "norm."]) == 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"shape": [3, 10**15]}, 3), ({"shape": [2**62, 2**62]}, 3), ({"shape": [-3, 23]}, 3),
        ({"shape": None}, 3), ({"shape": [5, 23]}, 3), ({"shape": [0, 23]}, 0), ({"shape": [1] * 99}, 3),
        ({"blocksize": 0}, 3), ({"blocksize": 1}, 3), ({"blocksize": 10**30}, 0), ({"blocksize": "64"}, 3),
        ({"dtype": "float99"}, 3), ({"x": [[]] * 20_000}, 3),
    ],
)  # fmt: skip
def test_a_description_that_lies_is_refused_and_takes_no_memory(save, tmp_path, capsys, changes, code):
    source = save(four_bits("nf4", **changes))
    assert main(["export", str(source), "-o", str(tmp_path / "o.pt"), "--dequantize"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_nested_scales_of_a_huge_block_take_no_memory(save, tmp_path):
    source = save(four_bits("nf4 with quantized scales", nested_blocksize=10**30))
    assert main(["export", str(source), "-o", str(tmp_path / "o.pt"), "--dequantize"]) == 0


@pytest.mark.parametrize("part", ["absmax", "quant_map", "nested_absmax", "nested_quant_map"])
def test_complex_scales_are_refused(save, tmp_path, capsys, part):
    state = four_bits("nf4 with quantized scales" if "nested" in part else "nf4")
    state[f"layer.weight.{part}"] = state[f"layer.weight.{part}"].to(torch.complex64)
    said = refused(capsys, save(state), "-o", tmp_path / "o.pt", "--dequantize")
    assert "the quantized tensor layer.weight cannot be read: its scales are complex" in said


def test_names_without_their_parts_are_plain_tensors(save, tmp_path):
    state = four_bits("nf4")
    del state["layer.weight.absmax"]
    assert main(["export", str(save(state)), "-o", str(tmp_path / "o.pt")]) == 0
    assert main(["export", str(save({"SCB": torch.ones(2)})), "-o", str(tmp_path / "p.pt")]) == 0


def test_a_folder_of_values_has_a_configuration_that_says_nothing_of_bits(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(four_bits("nf4"), folder / "model.safetensors")
    config = {"model_type": "llama", "quantization_config": {"load_in_4bit": True}}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["export", str(folder), "-o", f"{tmp_path}/out/", "--dequantize"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"model_type": "llama"}
    assert [*load_file(tmp_path / "out" / "model.safetensors")] == ["layer.weight"]
    for text in ("[" * 5, "[]", "3"):
        (folder / "config.json").write_text(text)
        capsys.readouterr()
        assert main(["export", str(folder), "-o", f"{tmp_path}/more/", "--dequantize"]) == 3
        assert not (tmp_path / "more").exists()
