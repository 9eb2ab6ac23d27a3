"""The statistics that are saved with a checkpoint are those of the values in its file."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import marlin_ckpt
from marlin_ckpt import (
    Checkpoint,
    CheckpointDirectory,
    CorruptCheckpointError,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    Saver,
    Statistics,
    Status,
    read_statistics,
)
from marlin_ckpt.formats import statistics
from marlin_ckpt.formats.content import contents
from marlin_ckpt.formats.content.contents import tensors_of
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.formats.values.dtypes import DTYPES
from marlin_ckpt.formats.values.gathering import Gathering
from marlin_ckpt.operations.rescue.salvage import salvage
from tests.support.computed import computed

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
    is_near = found.norm == pytest.approx(norm, rel=1e-6, abs=0)
    return is_near and all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(found[1:], rest, strict=True)
    )


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


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_without_the_option_a_file_has_no_statistics(tmp_path):
    marlin_ckpt.save(tensors(FLOATS[:1], 5), tmp_path / "a.pt")
    assert read_statistics(tmp_path / "a.pt") is None
    assert b"statistics" not in (tmp_path / "a.pt").read_bytes()
    torch.save(tensors(FLOATS[:1], 5), tmp_path / "b.pt")
    assert read_statistics(tmp_path / "b.pt") is None
    assert read_statistics(tmp_path) is None


def test_a_flipped_bit_in_the_statistics_is_found_and_salvage_rescues_all_the_rest(tmp_path):
    path, rescued = tmp_path / "a.pt", tmp_path / "b.pt"
    state = tensors(FLOATS[:1], 5, 50_000)
    marlin_ckpt.save(state, path, statistics=True)
    flip(path, path.read_bytes().index(b'"names"') + 3)
    verdict = marlin_ckpt.verify(path)
    assert verdict.status is Status.CORRUPT
    assert "statistics.json" in verdict.reason
    with pytest.raises(CorruptCheckpointError, match=r"statistics\.json"):
        read_statistics(path)
    found = salvage(str(path), str(rescued))
    assert [(one.record, one.tensors) for one in found.lost] == [(".marlin/statistics.json", ())]
    assert marlin_ckpt.verify(rescued).status is Status.INTACT
    assert torch.load(rescued).keys() == state.keys()
    assert read_statistics(rescued) is None


def test_salvage_keeps_statistics_that_are_whole(tmp_path):
    path, rescued = tmp_path / "a.pt", tmp_path / "b.pt"
    marlin_ckpt.save(tensors(FLOATS[:1], 5, 50_000), path, statistics=True)
    before = read_statistics(path)
    flip(path, path.stat().st_size // 2)
    salvage(str(path), str(rescued))
    assert read_statistics(rescued) == before
    assert marlin_ckpt.verify(rescued).status is Status.INTACT


def test_they_are_of_the_tensors_of_modules_and_optimizers_by_the_names_that_show_lists(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40))
    model.tied = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 30)).square().sum().backward()
    optimizer.step()
    for is_async in (False, True):
        arguments = DefaultCheckpointerArguments(
            save_dir=tmp_path, model_state_save_dir=tmp_path, statistics=True, async_save=is_async
        )
        checkpointer = DefaultCheckpointer(arguments)
        state = Checkpoint(model.state_dict(), {"optimizers": [optimizer.state_dict()]}, {"rng": [1, "a"]})
        checkpointer.save(state, 1, force=True)
        checkpointer.close()
    directory = CheckpointDirectory(tmp_path, prefix="other", statistics=True)
    directory.save({"model": model, "optimizer": optimizer}, 2)
    for path in tmp_path.glob("*.pt"):
        contents = marlin_ckpt.inspect(path)
        assert list(read_statistics(path)) == [one.name for one in contents.tensors]
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_state_that_views_one_storage_over_and_over_takes_no_longer_to_save_for_it(tmp_path):
    base = torch.ones(3_000_000)
    state = [base[start : -start or None] for start in range(200)]
    marlin_ckpt.save(state, tmp_path / "a.pt", statistics=True)
    found = read_statistics(tmp_path / "a.pt")
    assert 8 < len(found) < 16
    assert found["[0]"].norm == pytest.approx(3_000_000**0.5)


ELEMENTS = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1e-30, 3e38])


@given(
    st.lists(ELEMENTS, min_size=24, max_size=24),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32]),
    st.permutations([0, 1, 2]),
    st.tuples(*[st.slices(size) for size in (4, 3, 2)]),
    st.lists(st.integers(0, 192), max_size=6),
)
def test_of_any_view_they_are_torchs_own_in_whatever_pieces_it_is_written(values, dtype, order, cut, borders):
    whole = torch.tensor(values, dtype=torch.float64)
    if dtype is torch.int32:
        whole = whole.nan_to_num(0, 9, -9).clamp(-1e9, 1e9)
    whole = whole.to(dtype).reshape(4, 3, 2)
    cut = [slice(one.start, one.stop, abs(one.step or 1)) for one in cut]  # torch has no negative steps
    state = {"whole": whole, "view": whole.permute(order), "cut": whole[tuple(cut)], "flat": whole.flatten()}
    encoded = encode(state)
    (storage,) = encoded.storages.values()
    data = memory(storage.data_ptr(), storage.nbytes())
    gathering = Gathering(tensors_of(encoded.pickle, {"0": len(data)}))
    tell = gathering.of("data/0", data)
    at = [0, *sorted(min(one, len(data)) for one in borders), len(data)]
    for start, end in itertools.pairwise(at):
        tell(data[start:end])
    found = statistics.from_json(gathering.record()[1]).by_name()
    assert [name for name, tensor in state.items() if not agrees(found[name], tensor)] == []


def test_they_are_of_the_bytes_that_are_stored_whatever_becomes_of_the_tensor_meanwhile():
    encoded = encode([torch.zeros(4)])
    gathering = Gathering(tensors_of(encoded.pickle, {"0": 16}))
    stored = memoryview(torch.tensor([3.0, 4.0, 0.0, 0.0]).numpy().tobytes())
    gathering.of("data/0", memoryview(bytes(16)))(stored)
    assert statistics.from_json(gathering.record()[1]).by_name() == {"[0]": Statistics(5.0, 0.0, 4.0)}


def test_where_finding_the_names_takes_too_much_memory_a_save_goes_without_statistics(tmp_path, monkeypatch):
    def exhausted(*_) -> None:
        raise MemoryError

    monkeypatch.setattr(contents, "StubReader", exhausted)
    marlin_ckpt.save({"a": torch.ones(3)}, tmp_path / "model_1.pt", statistics=True)
    monkeypatch.undo()
    assert read_statistics(tmp_path / "model_1.pt") is None
    assert marlin_ckpt.verify(tmp_path / "model_1.pt").status is Status.INTACT
