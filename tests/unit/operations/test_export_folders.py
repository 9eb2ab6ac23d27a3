"""`export` and `average` of folders in all layouts."""

from __future__ import annotations

import os
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file

from marlin_ckpt import errors
from marlin_ckpt.cli.main import main
from marlin_ckpt.operations import average, weights_file
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.one import opened
from tests.support.exports import assert_same, load_folder, run_export
from tests.support.foreign import corpus, dcp_folders, dcp_writing, hugging_face

# What DeepSpeed's ranks hold are parts of tensors, which `export` refuses.
WHOLE = [name for name in corpus.CHECKPOINTS if "deepspeed" not in name]
PREFIXES = "model.", "state_dict."


@pytest.mark.parametrize("name", WHOLE)
def test_the_weights_of_a_checkpoint_of_any_layout_are_exported_by_their_names_in_the_model(tmp_path, name):
    made = corpus.CHECKPOINTS[name](tmp_path)
    expected = {name: one for name, one in made.weights.items() if not name.startswith("model_1.")}
    prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in expected)), "")
    run_export(made.path, tmp_path / "one.safetensors")
    assert_same(
        load_file(tmp_path / "one.safetensors"),
        {name.removeprefix(prefix): one for name, one in expected.items()},
    )


def test_another_model_and_an_optimizer_are_exported_by_the_names_of_their_states(tmp_path):
    made = corpus.CHECKPOINTS["accelerate-of-two"](tmp_path)
    done = run_export(made.path, tmp_path / "one.safetensors", state="model_1")
    assert done.state == "model_1"
    expected = {name: one for name, one in made.weights.items() if name.startswith("model_1.")}
    assert_same(
        load_file(tmp_path / "one.safetensors"),
        {name.removeprefix("model_1."): one for name, one in expected.items()},
    )
    done = run_export(made.path, f"{tmp_path}/moments/", state="optimizer")
    assert "state.0.exp_avg" in load_file(tmp_path / "moments" / "model.safetensors")
    assert done.copied == ()
    with pytest.raises(errors.MarlinError, match="no tensor is in a state of the name model_2") as caught:
        run_export(made.path, tmp_path / "two.safetensors", state="model_2")
    assert "model_1" in caught.value.hint


def test_an_optimizer_next_to_flat_weights_is_left_out_unless_its_state_is_named(tmp_path):
    made = dcp_folders.make_torchtitan(tmp_path)
    assert run_export(made.path, tmp_path / "one.pt").tensors == len(made.weights)
    assert run_export(made.path, tmp_path / "two.pt", state="optimizer").tensors > len(made.weights)


def test_names_of_a_flat_folder_stay_as_they_are_though_most_begin_with_model(tmp_path):
    of = {
        "model.layers.0.weight": torch.rand(3),
        "model.norm.weight": torch.rand(3),
        "lm_head.weight": torch.rand(3),
    }
    hugging_face.write_model(tmp_path / "llama", of, shards=2)
    done = run_export(tmp_path / "llama", tmp_path / "one.safetensors")
    assert done.state == ""
    assert_same(load_file(tmp_path / "one.safetensors"), of)
    run_export(tmp_path / "llama", tmp_path / "one.pt")
    assert_same(torch.load(tmp_path / "one.pt", weights_only=True), of)


@pytest.mark.parametrize("output", ["new.safetensors", "new.pt", "new/"])
def test_of_an_incomplete_folder_nothing_is_written(tmp_path, output, capsys):
    made = hugging_face.make_sharded(tmp_path)
    (made.path / "model-00002-of-00003.safetensors").unlink()
    assert main(["export", str(made.path), "-o", f"{tmp_path}/{output}"]) == 3
    assert "model-00002-of-00003.safetensors is missing" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["sharded"]


def test_of_a_folder_that_ends_early_nothing_is_written(tmp_path, capsys):
    made = hugging_face.make_sharded(tmp_path)
    shard = made.path / "model-00002-of-00003.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)
    assert main(["export", str(made.path), "-o", f"{tmp_path}/new/"]) == 3
    assert shard.name in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["sharded"]


def test_the_average_of_folders_is_a_folder_of_shards(tmp_path):
    each = [hugging_face.make_sharded(tmp_path / str(step), step=step) for step in (1, 2)]
    with opened(str(each[0].path)) as one, opened(str(each[1].path)) as other:
        target = weights_file.output(f"{tmp_path}/new", "100")
        done = average.average([one, other], target, Wanted())
    assert len(done.shards) > 1
    expected = {name: (each[0].weights[name] + each[1].weights[name]) / 2 for name in each[0].weights}
    found = load_folder(tmp_path / "new")
    assert all(torch.allclose(found[name], one) for name, one in expected.items())
    assert (tmp_path / "new" / "config.json").exists()


@pytest.mark.parametrize("output", ["new.safetensors", "new.pt", "new/"])
@pytest.mark.parametrize("kind", ["shards", "pieces"])
def test_no_more_than_the_largest_tensor_is_in_memory(tmp_path, kind, output):
    mebibyte = 1 << 20
    of = {f"layers.{number}": torch.full((mebibyte,), float(number)) for number in range(6)}  # 4 MiB each
    if kind == "shards":
        hugging_face.write_model(tmp_path / "step", of, shards=2)
    else:
        dcp_writing.write_dcp(tmp_path / "step", of, ranks=2)
    tracemalloc.start()
    try:
        run_export(tmp_path / "step", f"{tmp_path}/{output}", "9MB" if output == "new/" else None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (4 + 3) * mebibyte
