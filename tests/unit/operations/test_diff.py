"""`diff` says what differs between two files, in figures that torch confirms."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model

from marlin_ckpt import Checkpoint, errors
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.values import distance
from marlin_ckpt.formats.values.checked import open_checked
from marlin_ckpt.operations import diff, pairs

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int8, torch.uint8, torch.uint16, torch.bool, torch.complex64,
    torch.complex128,
]  # fmt: skip


def compare(a: Path, b: Path, **options) -> diff.Comparison:
    with open_checked(str(a)) as before, open_checked(str(b)) as after:
        return diff.compare(before, after, **options)


@pytest.fixture
def files(tmp_path):
    """Writes states to files; bare ones by torch.save."""

    def write(*states) -> list[Path]:
        paths = [tmp_path / f"{number}.pt" for number in range(len(states))]
        for path, state in zip(paths, states, strict=True):
            torch.save(state, path)
        return paths

    return write


def changes(found: diff.Comparison) -> dict[str, str]:
    return {one.name: str(one.change) for one in found.tensors}


def test_each_tensor_is_told_by_what_became_of_it(files):
    before = {
        "same": torch.ones(3),
        "changed": torch.ones(3),
        "reshaped": torch.ones(3),
        "retyped": torch.ones(3),
        "gone": torch.ones(1),
    }
    after = {
        "same": torch.ones(3),
        "changed": torch.tensor([1.0, 1, 2]),
        "reshaped": torch.ones(1, 3),
        "retyped": torch.ones(3).half(),
        "new": torch.ones(1),
    }
    found = compare(*files(before, after))
    assert changes(found) == {
        "gone": "removed", "new": "added", "reshaped": "reshaped", "retyped": "reshaped",
        "changed": "changed", "same": "same",
    }  # fmt: skip
    assert not found.is_same


def test_a_file_is_the_same_as_itself_and_as_a_copy_by_another_writer(
    files, make_checkpointer, make_checkpoint
):
    checkpoint = make_checkpoint(2.0)
    ours = make_checkpointer().save(checkpoint, 1)
    (theirs,) = files(checkpoint.payload())
    assert compare(ours, ours).is_same
    assert compare(ours, theirs).is_same


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_figures_are_those_of_torch_for_each_dtype(files, dtype):
    torch.manual_seed(1)
    a, b = (torch.randn(50, 7).mul(5).abs() for _ in range(2))
    a, b = (a > 3, b > 3) if dtype is torch.bool else (a.to(dtype), b.to(dtype))
    (one,) = compare(*files({"x": a}, {"x": b})).tensors
    wide = torch.complex128 if dtype.is_complex else torch.float64
    x, y = a.to(wide).flatten(), b.to(wide).flatten()
    product = torch.real(torch.vdot(x, y)) if dtype.is_complex else x @ y
    assert one.distance.differing == int(
        (a.view(torch.uint8) != b.view(torch.uint8)).view(350, -1).any(1).sum()
    )
    assert one.distance.maximum == pytest.approx(float((x - y).abs().max()))
    assert one.distance.relative == pytest.approx(float((x - y).norm() / x.norm()))
    assert one.distance.cosine == pytest.approx(float(product / x.norm() / y.norm()))


@pytest.mark.parametrize("changed", [0, 1 << 17, (9 << 20) // 2, (9 << 20) - 1])
def test_blocks_that_are_the_same_count_in_the_norms(files, changed):
    # 36 MB: of several ranges, each of several pieces, of which one alone differs.
    a = torch.arange(9 << 20, dtype=torch.float32) % 1000
    b = a.clone()
    b[changed] += 1
    (one,) = compare(*files({"x": a}, {"x": b})).tensors
    assert (one.distance.differing, one.distance.maximum) == (1, 1.0)
    assert one.distance.relative == pytest.approx(1 / float(a.double().norm()), rel=1e-12)


def test_zeros_of_two_signs_differ_in_their_bits_alone(files):
    (one,) = compare(*files({"x": torch.zeros(2)}, {"x": torch.tensor([0.0, -0.0])})).tensors
    assert (one.change, one.distance.differing, one.distance.relative, one.distance.maximum) == (
        "changed",
        1,
        0,
        0,
    )


def test_nans_of_one_payload_are_the_same_and_of_two_are_not(files):
    a = np.array([0x7FC00000, 0x7FC00000], np.uint32).view(np.float32)
    b = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    assert compare(*files({"x": x}, {"x": x.clone()})).is_same
    (one,) = compare(*files({"x": x}, {"x": y})).tensors
    assert (one.distance.differing, one.distance.not_finite) == (1, 1)


def test_what_is_not_finite_is_counted_and_hides_nothing_of_the_rest(files):
    a = torch.tensor([3.0, 4.0, 1.0, math.inf, math.inf])
    b = torch.tensor([3.0, 5.0, math.nan, math.inf, -math.inf])
    (one,) = compare(*files({"x": a}, {"x": b})).tensors
    assert (one.distance.differing, one.distance.not_finite, one.distance.maximum) == (3, 2, 1.0)
    assert one.distance.relative == pytest.approx(1 / 5)


def test_what_was_all_zeros_has_an_infinite_change_and_no_cosine(files):
    (one,) = compare(*files({"x": torch.zeros(2)}, {"x": torch.ones(2)})).tensors
    assert (one.distance.relative, one.distance.cosine) == (math.inf, None)


def test_neighbours_among_great_integers_differ_by_one(files):
    a = torch.tensor([2**62, -(2**63)])
    (one,) = compare(*files({"x": a}, {"x": a + 1})).tensors
    assert (one.distance.maximum, one.distance.differing) == (1.0, 2)
    (one,) = compare(*files({"x": torch.tensor([-(2**63)])}, {"x": torch.tensor([2**63 - 1])})).tensors
    assert one.distance.maximum == 2.0**64


@given(
    st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_the_sum_of_the_measures_of_parts_is_the_measure_of_the_whole(values, cut):
    a, b = (np.array(column, np.float32) for column in zip(*values, strict=True))

    def measure(part: slice) -> distance.Distance:
        x, y = a[part].copy(), b[part].copy()
        return distance.Ruler().measure(x, y, distance.differences(x.data.cast("B"), y.data.cast("B"), 4))

    parts, whole = measure(slice(0, cut)) + measure(slice(cut, None)), measure(slice(None))
    assert (parts.differing, parts.not_finite, parts.maximum) == (
        whole.differing,
        whole.not_finite,
        whole.maximum,
    )
    for name in ("squares", "other_squares", "difference_squares", "product"):
        scale = math.sqrt(whole.squares * whole.other_squares)
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-9 * scale)
    assert whole.cosine is None or -1 <= whole.cosine <= 1


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base.t(),
        lambda base: base[::2],
        lambda base: base[1:, 1:],
        lambda base: base[3],
        lambda base: base[0, :1].expand(5, 6),
        lambda base: base[:0],
    ],
    ids=["transposed", "strided", "inner", "part", "expanded", "empty"],
)
def test_views_are_compared_by_their_elements(files, view):
    base = torch.arange(48.0).reshape(6, 8)
    one = view(base)
    assert compare(*files({"x": one}, {"x": one.clone().contiguous()})).is_same
    found = compare(*files({"x": one}, {"x": view(base + 1).clone()}))
    assert [other.distance.differing for other in found.tensors if other.distance] == [one.numel()] * bool(
        one.numel()
    )


def test_plain_values_that_differ_are_told(files):
    before = {"w": torch.ones(1), "epoch": 1, "lr": [0.1, 0.1], "name": "a", "nan": math.nan, "gone": None}
    after = {"w": torch.ones(1), "epoch": 2, "lr": [0.1, 0.2], "name": "a", "nan": math.nan, "flag": True}
    found = compare(*files(before, after))
    assert [(one.name, one.before, one.after) for one in found.values] == [
        ("epoch", "1", "2"),
        ("lr", "[0.1, 0.1]", "[0.1, 0.2]"),
        ("gone", "None", ""),
        ("flag", "", "True"),
    ]
    assert not found.is_same


def test_layers_are_told_with_the_greatest_change_first(files):
    state = {f"{layer}.{name}": torch.ones(4) for layer in "abc" for name in ("weight", "bias")}
    after = {
        **state,
        "b.weight": torch.ones(4) * 3,
        "a.weight": torch.ones(4) * 1.5,
        "a.bias": torch.ones(4) * 2,
    }
    layers = compare(*files(state, after)).layers
    assert [(one.name, one.changed, one.tensors) for one in layers] == [("b", 1, 2), ("a", 2, 2)]
    assert layers[0].distance.relative == pytest.approx(2)
    assert layers[1].distance.relative == pytest.approx(math.sqrt((4 * 0.25 + 4) / 8))


def test_an_optimizer_s_count_of_steps_does_not_hide_its_moments(files):
    state = {"0.step": torch.tensor(1.0), "0.exp_avg": torch.ones(4), "1.step": torch.tensor(1.0)}
    after = {"0.step": torch.tensor(9.0), "0.exp_avg": torch.ones(4) * 1.5, "1.step": torch.tensor(3.0)}
    layers = compare(*files(state, after)).layers
    assert [(one.name, one.changed, one.distance.maximum) for one in layers] == [("1", 1, 2.0), ("0", 2, 0.5)]


def test_a_state_dict_is_compared_with_the_module_s_state_of_a_checkpoint(
    tmp_path, make_checkpointer, make_checkpoint, capsys
):
    checkpoint = make_checkpoint(2.0)
    ours = make_checkpointer().save(checkpoint, 1)
    save_file(checkpoint.module_interface_state, tmp_path / "weights.safetensors")
    torch.save({"state_dict": checkpoint.module_interface_state, "epoch": 3}, tmp_path / "lightning.ckpt")
    torch.save(
        checkpoint.module_interface_state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False
    )
    for other in ("weights.safetensors", "legacy.pt"):
        found = compare(ours, tmp_path / other)
        assert (found.states, found.is_same) == (("module_interface_state", ""), True)
        assert compare(tmp_path / other, ours).is_same
    assert compare(tmp_path / "lightning.ckpt", tmp_path / "weights.safetensors").states == ("state_dict", "")
    assert main(["diff", ours, str(tmp_path / "weights.safetensors")]) == 0
    assert f"compared: module_interface_state of {ours}" in capsys.readouterr().err


def test_names_that_safetensors_left_out_as_shared_are_found_again(tmp_path, files):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    save_model(model, str(tmp_path / "shared.safetensors"))
    assert compare(tmp_path / "shared.safetensors", *files(model.state_dict())).is_same


def test_states_and_patterns_restrict_what_is_compared(make_checkpointer, make_checkpoint):
    checkpointer = make_checkpointer()
    a, b = (checkpointer.save(make_checkpoint(value), int(value)) for value in (1.0, 2.0))
    only = compare(a, b, state="module_interface_state")
    assert (changes(only), only.values) == ({"weight": "changed"}, ())
    assert changes(compare(a, b, pattern="*.bias")) == {}
    assert compare(a, b, pattern="*.bias").is_same
    with pytest.raises(errors.MarlinError, match="no tensor is in a state of the name nothing"):
        compare(a, b, state="nothing")


def test_two_tensors_of_one_dotted_name_are_both_compared(files):
    before = {"a": {"b": torch.ones(1)}, "a.b": torch.ones(2)}
    after = {"a": {"b": torch.ones(1)}, "a.b": torch.zeros(2)}
    assert changes(compare(*files(before, after))) == {"a.b": "same", "a.b (2)": "changed"}


def test_the_document_of_diff_has_the_keys_that_the_readme_names(files, capsys):
    a, b = files({"l.w": torch.zeros(2), "e": 1}, {"l.w": torch.ones(2), "e": 2, "n": torch.ones(1)})
    assert main(["diff", str(a), str(b), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["paths"] == [str(a), str(b)]
    assert document["counts"] == {"removed": 0, "added": 1, "reshaped": 0, "changed": 1, "same": 0}
    assert document["tensors"][0] == {
        "name": "n", "change": "added", "before": None, "after": {"dtype": "float32", "shape": [1]},
    }  # fmt: skip
    figures = {"relative": "inf", "maximum": 1.0, "cosine": None, "differing": 2, "not_finite": 0}
    assert document["layers"] == [{"name": "l", "tensors": 1, "changed": 1, **figures}]
    assert document["values"] == [{"name": "e", "before": "1", "after": "2"}]
    assert (document["same"], document["states"]) == (False, [None, None])
    assert main(["diff", str(a), str(a), "--json", "--all"]) == 0
    assert [one["change"] for one in json.loads(capsys.readouterr().out)["tensors"]] == ["same"]


def test_diff_prints_each_tensor_only_when_asked(files, capsys):
    a, b = map(
        str,
        files({"l.w": torch.ones(2), "l.b": torch.ones(1)}, {"l.w": torch.ones(2) * 2, "l.b": torch.ones(1)}),
    )
    assert main(["diff", a, b]) == 1
    plain = capsys.readouterr()
    assert [line.split() for line in plain.out.splitlines()] == [
        ["relative", "maximum", "cosine", "differing", "tensors", "layer"],
        ["1", "1", "1.000000", "2", "1", "of", "2", "l"],
    ]
    assert plain.err == "2 tensors: 1 changed, 1 same\n"
    assert main(["diff", a, b, "--tensors", "*.w"]) == 1
    assert "float32 [2]  l.w" in capsys.readouterr().out
    assert main(["diff", a, b, "--all"]) == 1
    assert "same  l.b  float32 [1]" in capsys.readouterr().out


def test_names_and_values_are_printed_harmlessly(files, capsys):
    a, b = files(
        {"w\x1b[2J": torch.ones(1), "v": "\x1b]0;x\x07"}, {"w\x1b[2J": torch.zeros(1), "v": "\u202e"}
    )
    assert main(["diff", str(a), str(b), "--all"]) == 1
    printed = capsys.readouterr()
    assert all(line.isprintable() for line in (printed.out + printed.err).split("\n"))
    assert "w\\x1b[2J" in printed.out


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_file_exits_3_and_names_the_tensor(files, capsys, number):
    paths = files(
        {"fine": torch.zeros(4), "worn": torch.arange(1000.0)},
        {"fine": torch.zeros(4), "worn": torch.arange(1000.0)},
    )
    data = bytearray(paths[number].read_bytes())
    data[data.index(struct.pack("<3f", 7, 8, 9))] ^= 1
    paths[number].write_bytes(data)
    assert main(["diff", *map(str, paths)]) == 3
    printed = capsys.readouterr()
    assert printed.err.startswith("error: the CRC of record ")
    assert "(tensor worn)" in printed.err
    assert str(paths[number]) in printed.err
    assert printed.out == ""


def test_a_damaged_record_that_only_views_look_at_is_found(files, capsys):
    base = torch.arange(1000.0)
    paths = files({"part": base[:10], "across": base[::100]}, {"part": base[:10], "across": base[::100]})
    data = bytearray(paths[0].read_bytes())
    data[data.index(struct.pack("<3f", 507, 508, 509))] ^= 1  # which neither of them views
    paths[0].write_bytes(data)
    assert main(["diff", *map(str, paths)]) == 3
    assert "CRC" in capsys.readouterr().err


def test_files_that_are_missing_or_something_else_have_their_exit_codes(files, tmp_path, capsys):
    (whole,) = files({"w": torch.ones(1)})
    (tmp_path / "notes.txt").write_text("notes")
    assert main(["diff", str(whole), str(tmp_path / "missing.pt")]) == 4
    assert main(["diff", str(whole), str(tmp_path / "notes.txt")]) == 3
    assert main(["diff", str(whole)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_that_is_truncated_while_it_is_read_is_told(files):
    a, b = files({"x": torch.ones(4 << 20)}, {"x": torch.ones(4 << 20)})
    with open_checked(str(a)) as before, open_checked(str(b)) as after:
        tensor = before.outline.tensors[0]
        Path(a).write_bytes(Path(a).read_bytes()[: 1 << 20])
        with pytest.raises(errors.CorruptCheckpointError, match="truncated while it was read") as caught:
            list(pairs.Pairs(before, after).measure([(tensor, after.outline.tensors[0])]))
    assert caught.value.where == str(a)


def test_a_checkpoint_of_one_step_earlier_differs_in_every_layer_that_was_trained(make_checkpointer):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    checkpointer = make_checkpointer()
    paths = []
    for index in range(2):
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        state = {"epoch": index, "optimizer": optimizer.state_dict()}
        paths.append(checkpointer.save(Checkpoint(model.state_dict(), state, {}), index))
    found = compare(*paths)
    names = {one.name for one in found.layers}
    assert {f"module_interface_state.{number}" for number in range(3)} < names
    assert {f"trainer_state.optimizer.state.{number}" for number in range(6)} < names
    assert [one.name for one in found.values] == ["trainer_state.epoch"]
