"""`average` is the mean that torch computes in float64, rounded once."""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from marlin_ckpt import Checkpoint, errors
from marlin_ckpt.cli.main import main
from marlin_ckpt.operations import average
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.one import opened
from marlin_ckpt.operations.weights_file import WeightsFile


def run_average(sources: list[Path], output: Path, decay: float | None = None, **wanted):
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(opened(str(source))) for source in sources]
        return average.average(files, WeightsFile(str(output)), Wanted(**wanted), decay)


def load(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@pytest.fixture
def save(tmp_path):
    """Writes states by torch.save, to files of their own."""

    def write(*states) -> list[Path]:
        paths = [tmp_path / f"{number}.pt" for number in range(len(states))]
        for path, state in zip(paths, states, strict=True):
            torch.save(state, path)
        return paths

    return write


def reference(tensors: list[torch.Tensor], decay: float) -> torch.Tensor:
    wide = torch.complex128 if tensors[0].is_complex() else torch.float64
    weights = [decay ** (len(tensors) - 1 - number) for number in range(len(tensors))]
    total = torch.zeros(tensors[0].shape, dtype=wide)
    for tensor, weight in zip(tensors, weights, strict=True):
        total += tensor.to(wide) * weight
    return (total / sum(weights)).to(tensors[0].dtype)


@pytest.mark.parametrize("name", ["o.pt", "o.safetensors"])
@pytest.mark.parametrize("decay", [None, 0.5, 0.9])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64], ids=str
)
def test_the_average_is_that_of_torch_in_float64(save, tmp_path, dtype, decay, name):
    torch.manual_seed(1)
    tensors = [torch.randn(31, 17).mul(10).to(dtype) for _ in range(4)]
    run_average(save(*({"w": one, "t": one.t()} for one in tensors)), tmp_path / name, decay)
    loaded = load(tmp_path / name)
    expected = reference(tensors, decay or 1.0)
    assert loaded["w"].dtype is dtype
    assert torch.equal(loaded["w"], expected)
    assert torch.equal(loaded["t"], expected.t())


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=5), st.data())
def test_any_values_are_averaged_as_by_torch(tmp_path_factory, rows, data):
    decay = data.draw(st.one_of(st.none(), st.floats(0.01, 1)))
    directory = tmp_path_factory.mktemp("average")
    tensors = [torch.tensor(row) for row in rows]
    paths = [directory / f"{number}.pt" for number in range(len(rows))]
    for path, tensor in zip(paths, tensors, strict=True):
        torch.save({"w": tensor}, path)
    run_average(paths, directory / "o.pt", decay)
    found = load(directory / "o.pt")["w"]
    torch.testing.assert_close(found, reference(tensors, decay or 1.0), rtol=0, atol=0, equal_nan=True)


def test_the_average_of_one_file_and_of_copies_of_it_is_that_file(save, tmp_path):
    torch.manual_seed(1)
    state = {"w": torch.randn(1000), "n": torch.tensor(3)}
    for number, files in enumerate(([state], [state] * 3, [state] * 7)):
        run_average(save(*files), tmp_path / f"o{number}.pt")
        loaded = load(tmp_path / f"o{number}.pt")
        assert torch.equal(loaded["w"], state["w"])
        assert loaded["n"] == 3


def test_the_newest_file_counts_most_and_each_before_it_so_much_less():
    assert average.weights(3) == [1, 1, 1]
    assert average.weights(3, 0.5) == [0.25, 0.5, 1]
    with pytest.raises(errors.ArgumentsError, match="at least one"):
        average.weights(0)


@pytest.mark.parametrize("decay", ["0", "-1", "1.5", "nan", "inf"])
def test_a_decay_out_of_range_is_a_usage_error(save, tmp_path, capsys, decay):
    (source,) = save({"w": torch.ones(1)})
    assert main(["average", str(source), "-o", str(tmp_path / "o.pt"), "--decay", decay]) == 2
    assert "above 0 and at most 1" in capsys.readouterr().err


def test_tensors_of_other_dtypes_are_those_of_the_last_file(save, tmp_path):
    states = [
        {"n": torch.tensor([index]), "b": torch.tensor(index == 2), "w": torch.ones(1)} for index in range(3)
    ]
    run_average(save(*states), tmp_path / "o.safetensors")
    loaded = load(tmp_path / "o.safetensors")
    assert (loaded["n"].tolist(), loaded["b"].item(), loaded["n"].dtype) == ([2], True, torch.int64)


def test_checkpoints_of_a_run_are_averaged_with_the_options_of_export(make_checkpointer, tmp_path, capsys):
    checkpointer = make_checkpointer()
    paths = []
    for index in range(3):
        weight = torch.full((2, 2), float(index))
        module = {"net.a.weight": weight, "net.b.weight": weight, "other": torch.ones(1)}
        paths.append(
            checkpointer.save(Checkpoint(module, {"epoch": index}, {}, metrics={"loss": 1.0}), index)
        )
    target = tmp_path / "o.safetensors"
    options = ["--strip-prefix", "net.", "--dtype", "bf16", "--json"]
    assert main(["average", *paths, "-o", str(target), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["paths"], document["tensors"]) == (paths, 2)
    assert (document["shared"], document["left_out"]) == ({"b.weight": "a.weight"}, ["other"])
    assert load(target)["a.weight"].dtype is torch.bfloat16
    assert load(target)["a.weight"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert main(["average", *paths, "-o", str(target)]) == 1
    assert "is already there" in capsys.readouterr().err
    assert main(["average", *paths, "-o", str(target), "--force", "--decay", "0.5"]) == 0
    assert load(target)["net.a.weight"][0, 0].item() == pytest.approx((0.5 * 1 + 2) / 1.75)
    assert main(["average", *paths, "-o", str(tmp_path / "o.pt")]) == 0
    loaded = load(tmp_path / "o.pt")
    assert loaded["net.a.weight"].data_ptr() == loaded["net.b.weight"].data_ptr()
    with opened(str(tmp_path / "o.pt")) as file:
        assert file.contents.manifest is None  # no save of the run made it


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"w": torch.ones(2)}, "v is missing in "),
        ({"w": torch.ones(2), "v": torch.ones(1), "u": torch.ones(1)}, "u is missing in "),
        ({"w": torch.ones(3), "v": torch.ones(1)}, r"w is float32 \[3\] in .*, float32 \[2\] in "),
        ({"w": torch.ones(2).half(), "v": torch.ones(1)}, r"w is float16 \[2\] in "),
    ],
    ids=["missing", "more", "shape", "dtype"],
)
def test_files_that_do_not_fit_each_other_are_refused_with_what_differs(save, tmp_path, first, said):
    paths = save(first, {"w": torch.ones(2), "v": torch.ones(1)})
    with pytest.raises(errors.StateMismatchError, match=said) as caught:
        run_average(paths, tmp_path / "o.pt")
    assert len(caught.value.differences) == 1
    assert sorted(os.listdir(tmp_path)) == ["0.pt", "1.pt"]


def test_a_file_that_ties_other_weights_than_the_last_is_averaged_name_by_name(save, tmp_path):
    one, two = torch.ones(2), torch.full((2,), 3.0)
    paths = save({"a": one, "b": two}, {"a": one, "b": one})
    run_average(paths, tmp_path / "o.pt")
    assert {name: tensor.tolist() for name, tensor in load(tmp_path / "o.pt").items()} == {
        "a": [1.0, 1.0], "b": [2.0, 2.0],
    }  # fmt: skip


def test_eight_bit_floats_need_another_dtype_to_be_averaged(save, tmp_path):
    paths = save(*({"w": torch.full((2,), index).to(torch.float8_e4m3fn)} for index in (1, 2)))
    with pytest.raises(errors.UnsavableStateError, match="float8_e4m3fn") as caught:
        run_average(paths, tmp_path / "o.pt")
    assert "--dtype" in caught.value.hint
    run_average(paths, tmp_path / "o.pt", dtype="float32")
    assert load(tmp_path / "o.pt")["w"].tolist() == [1.5, 1.5]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", ["o.pt", "o.safetensors"])
def test_damage_in_any_file_is_found_and_nothing_is_written(save, tmp_path, capsys, name, number):
    paths = save({"w": torch.arange(1000.0)}, {"w": torch.arange(1000.0)})
    data = bytearray(paths[number].read_bytes())
    data[data.index(struct.pack("<3f", 7, 8, 9))] ^= 1
    paths[number].write_bytes(data)
    assert main(["average", *map(str, paths), "-o", str(tmp_path / name)]) == 3
    said = capsys.readouterr().err
    assert "(tensor w)" in said
    assert str(paths[number]) in said
    assert sorted(os.listdir(tmp_path)) == ["0.pt", "1.pt"]


def test_a_missing_file_exits_4_and_nothing_is_written(save, tmp_path, capsys):
    (source,) = save({"w": torch.ones(1)})
    assert main(["average", str(source), str(tmp_path / "none.pt"), "-o", str(tmp_path / "o.pt")]) == 4
    assert capsys.readouterr().err.startswith("error: no such file")
    assert os.listdir(tmp_path) == ["0.pt"]


def test_a_value_that_is_not_finite_stays_where_it_is(save, tmp_path):
    run_average(
        save({"w": torch.tensor([1.0, math.nan])}, {"w": torch.tensor([3.0, 1.0])}), tmp_path / "o.pt"
    )
    first, second = load(tmp_path / "o.pt")["w"].tolist()
    assert first == 2.0
    assert math.isnan(second)
