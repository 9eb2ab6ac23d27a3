"""The statistics that are saved with a checkpoint are those of the values in its file."""

from __future__ import annotations

import math

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import Saver, Status, read_statistics
from marlin_ckpt.formats.values.distribution import checked_distributions
from marlin_ckpt.formats.values.dtypes import DTYPES
from marlin_ckpt.operations.one import opened

NAN, INF = math.nan, math.inf
LARGE = 3_000_000  # elements, so that a float32 storage spans several pieces of the writer
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FLOATS += [getattr(torch, name) for name in DTYPES if name.startswith("float8") and "e8m0" not in name]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32]
COMPLEX = [torch.complex64, torch.complex128, torch.complex32]


def expected(tensor):
    """What torch says, in float64."""
    values = tensor.detach().flatten()
    if values.is_complex():
        values = values.to(torch.complex128 if values.dtype is torch.complex128 else torch.complex64).abs()
    values = values.double()
    finite = values[values.isfinite()]
    low, high = (finite.min().item(), finite.max().item()) if finite.numel() else (NAN, NAN)
    counts = values.isnan().sum().item(), values.isinf().sum().item()
    largest = max(-low, high) if low or high else 1.0  # the squares of some are too large for a float64
    return (finite / largest).norm().item() * largest if finite.numel() else 0.0, low, high, *counts


def agrees(found, tensor):
    norm, *rest = expected(tensor)
    return found.norm == pytest.approx(norm, rel=1e-6, abs=0) and repr(tuple(found[1:])) == repr(tuple(rest))


def computed(path):
    with opened(str(path)) as file:
        return {one.tensor.name: one.statistics for one in checked_distributions(file, file.contents.tensors)}


def tensors(dtypes, *sizes):
    generator = torch.Generator().manual_seed(1)
    return {
        f"{dtype}".removeprefix("torch.") + f"_{size}": (torch.randn(size, generator=generator) * 40).to(
            dtype
        )
        for dtype in dtypes
        for size in sizes
    }


def views():
    base = torch.randn(700, 300, generator=torch.Generator().manual_seed(2))
    return {
        "whole": base, "transposed": base.t(), "row": base[10:20], "column": base[:, 5],
        "columns": base[:, 5:9], "sparse": base[::3, ::2], "tied": base, "one": base[3, 4],
        "shifted": base[1:].flatten()[7:],
        "repeated": torch.ones(3, 1).expand(3, 1000), "permuted": base[:60].view(3, 20, 300).permute(2, 0, 1),
    }  # fmt: skip


def oddities():
    broken = torch.randn(200_000)
    broken[3], broken[100_000], broken[-1] = NAN, INF, -INF
    return {
        "empty": torch.empty(0, 5), "scalar": torch.tensor(-2.5), "zeros": torch.zeros(1000),
        "broken": broken, "all_nan": torch.full((9,), NAN), "inf": torch.tensor([INF, 1.0]),
        "huge": torch.full((100_000,), 3e38), "tiny": torch.full((100_000,), 1e-30),
        "denormal": torch.full((10,), 1e-44), "far": torch.tensor([1e300, -1e300], dtype=torch.float64),
        "near": torch.tensor([1e-300, 5e-324], dtype=torch.float64), "mixed": torch.tensor([1e-25, 1e10]),
        "parameter": torch.nn.Parameter(torch.randn(30)), "large": torch.randn(LARGE),
    }  # fmt: skip


STATES = {
    "floats": lambda: tensors(FLOATS, 1, 17, 70_000),
    "integers": lambda: tensors(INTEGERS, 1, 5_000),
    "complex": lambda: tensors(COMPLEX, 3, 70_000),
    "views": views,
    "oddities": oddities,
}


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("is_async", [False, True], ids=["now", "behind"])
@pytest.mark.parametrize("name", STATES)
def test_the_statistics_are_those_of_torch_and_of_whoever_reads_the_tensors(tmp_path, name, is_async):
    state, path = STATES[name](), tmp_path / "a.pt"
    with Saver(asynchronous=is_async, statistics=True) as saver:
        saver.save(state, path)
    found = read_statistics(path)
    assert list(found) == list(state)
    assert [key for key, tensor in state.items() if not agrees(found[key], tensor)] == []
    again = computed(path)
    for key in found:  # the order in which elements are summed may differ
        assert tuple(found[key]) == pytest.approx(tuple(again[key]), nan_ok=True, rel=1e-6)
    assert marlin_ckpt.verify(path).status is Status.INTACT
