"""`diff` says what differs between two files, in figures that torch confirms."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

from marlin_ckpt import Checkpoint, errors
from marlin_ckpt.cli.main import main
from marlin_ckpt.operations import diff, pairs
from marlin_ckpt.operations.one import opened
from tests.support.state_files import write_states

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int8, torch.uint8, torch.uint16, torch.bool, torch.complex64,
    torch.complex128,
]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """Writes states to files, and gives their paths."""
    return functools.partial(write_states, tmp_path)


def compare(a: Path, b: Path, **options) -> diff.Comparison:
    with opened(str(a)) as before, opened(str(b)) as after:
        return diff.compare(before, after, **options)


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


def test_a_file_that_is_truncated_while_it_is_read_is_told(files):
    a, b = files({"x": torch.ones(4 << 20)}, {"x": torch.ones(4 << 20)})
    with opened(str(a)) as before, opened(str(b)) as after:
        tensor = before.contents.tensors[0]
        Path(a).write_bytes(Path(a).read_bytes()[: 1 << 20])
        with pytest.raises(errors.CorruptCheckpointError, match="truncated while it was read") as caught:
            list(pairs.Pairs(before, after).measure([(tensor, after.contents.tensors[0])]))
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
