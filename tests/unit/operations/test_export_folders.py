"""`export` of folders, and to folders that `from_pretrained` and safetensors read."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from marlin_ckpt import errors
from marlin_ckpt.cli.main import main
from marlin_ckpt.operations import average, export, weights_file
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.one import opened
from marlin_ckpt.storage.local import publishing
from tests.support.foreign import corpus, dcp_folders, dcp_writing, hugging_face

# What DeepSpeed's ranks hold are parts of tensors, which `export` refuses.
WHOLE = [name for name in corpus.CHECKPOINTS if "deepspeed" not in name and name != "dcp-hugging-face"]
PREFIXES = "model.", "state_dict."
INDEX = "model.safetensors.index.json"


def run_export(
    source: Path | str, output: Path | str, shard_size: str | None = None, *, force=False, **wanted
):
    with opened(str(source)) as file:
        return export.export(
            file, weights_file.output(str(output), shard_size, force=force), Wanted(**wanted)
        )


def load_folder(path: Path) -> dict[str, torch.Tensor]:
    if not (path / INDEX).exists():
        return load_file(path / "model.safetensors")
    places = json.loads((path / INDEX).read_text())["weight_map"]
    return {name: load_file(path / file)[name] for name, file in places.items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert {*found} == {*expected}
    assert all(torch.equal(found[name], one) for name, one in expected.items())


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


def test_small_weights_are_one_file_without_an_index(tmp_path):
    made = hugging_face.make_sharded(tmp_path)
    done = run_export(made.path, f"{tmp_path}/new/")
    assert done.shards == ("model.safetensors",)
    assert sorted(os.listdir(tmp_path / "new")) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert_same(load_folder(tmp_path / "new"), made.weights)


@pytest.mark.parametrize("size", ["64", "200", "1kB"])
def test_shards_and_their_index_are_those_of_huggingface_hub(tmp_path, size):
    split = pytest.importorskip("huggingface_hub").split_torch_state_dict_into_shards
    made = hugging_face.make_sharded(tmp_path)
    with opened(str(made.path)) as file:
        stored = {one.name: made.weights[one.name] for one in file.contents.tensors}
    done = run_export(made.path, tmp_path / "new", size)
    expected = split(stored, max_shard_size=int(size.replace("kB", "000")))
    assert {*done.shards} == {*expected.filename_to_tensors}
    found = {name: set(load_file(tmp_path / "new" / name)) for name in done.shards}
    assert found == {name: set(each) for name, each in expected.filename_to_tensors.items()}


def test_the_index_is_the_one_that_transformers_writes(tmp_path):
    made = hugging_face.make_sharded(tmp_path)
    done = run_export(made.path, tmp_path / "new", "200")
    text = (tmp_path / "new" / INDEX).read_text()
    index = json.loads(text)
    assert text == json.dumps(index, indent=2, sort_keys=True) + "\n"
    before = json.loads((made.path / INDEX).read_text())
    assert index["metadata"] == before["metadata"]
    assert {*index["weight_map"]} == {*before["weight_map"]}
    assert {*index["weight_map"].values()} == {*done.shards}
    assert len(done.shards) > 1
    assert all(name.endswith(f"-of-{len(done.shards):05d}.safetensors") for name in done.shards)


def test_a_tensor_larger_than_a_shard_is_one_of_its_own(tmp_path):
    save_file({"a": torch.ones(2), "b": torch.ones(100), "c": torch.ones(2)}, tmp_path / "a.safetensors")
    done = run_export(tmp_path / "a.safetensors", tmp_path / "new", "16")
    assert [set(load_file(tmp_path / "new" / name)) for name in done.shards] == [{"b"}, {"a", "c"}]


def test_tied_weights_are_written_once_by_their_first_name_in_the_model(tmp_path):
    embedding = torch.rand(4, 4)
    state = {"wte.weight": embedding, "h.weight": torch.rand(9, 4), "head.weight": embedding}
    torch.save(state, tmp_path / "a.pt")
    done = run_export(tmp_path / "a.pt", tmp_path / "new", "100")
    assert done.shared == {"head.weight": "wte.weight"}
    index = json.loads((tmp_path / "new" / INDEX).read_text())
    assert {*index["weight_map"]} == {"wte.weight", "h.weight"}
    assert index["metadata"] == {"total_size": 208}


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


def test_the_configuration_and_the_tokenizer_are_copied_and_no_code(tmp_path):
    made = hugging_face.make_single(tmp_path)
    kept = {
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "merges.txt": b"a b",
        "spiece.model": b"\0",
    }
    for name, data in {**kept, "modeling.py": b"1", "training_args.bin": b"2", "README.md": b"3"}.items():
        (made.path / name).write_bytes(data)
    done = run_export(made.path, tmp_path / "new", "5GB")
    copied = {"config.json", "generation_config.json", *kept}
    assert {*done.copied} == copied
    assert {*os.listdir(tmp_path / "new")} == {*copied, "model.safetensors"}
    assert all((tmp_path / "new" / name).read_bytes() == (made.path / name).read_bytes() for name in copied)


def test_a_file_has_no_shards_and_none_are_asked_of_it(tmp_path):
    made = hugging_face.make_single(tmp_path)
    done = run_export(made.path, tmp_path / "one.safetensors")
    assert (done.shards, done.copied) == ((), ())
    with pytest.raises(errors.ArgumentsError, match="only a folder has shards"):
        weights_file.output("one.safetensors", "5GB")
    with pytest.raises(errors.ArgumentsError, match="with / at its end"):
        weights_file.output("one")


def test_a_folder_that_is_there_is_replaced_as_a_whole_and_only_by_force(tmp_path):
    made = hugging_face.make_sharded(tmp_path)
    run_export(made.path, tmp_path / "new", "100")
    before = sorted(os.listdir(tmp_path / "new"))
    with pytest.raises(errors.StorageError, match="already there") as caught:
        run_export(made.path, tmp_path / "new", "1GB")
    assert "--force" in caught.value.hint
    assert sorted(os.listdir(tmp_path / "new")) == before
    run_export(made.path, tmp_path / "new", "1GB", force=True)
    assert sorted(os.listdir(tmp_path / "new")) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]


def test_force_replaces_no_folder_with_anything_else_in_it(tmp_path):
    made = hugging_face.make_single(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    for path in (tmp_path / "home", tmp_path, made.path.parent):
        with pytest.raises(errors.StorageError, match="holds more than weights"):
            run_export(made.path, f"{path}/", force=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


def test_a_folder_may_take_the_place_of_the_one_that_it_is_made_of(tmp_path):
    made = hugging_face.make_sharded(tmp_path)
    run_export(made.path, f"{made.path}/", force=True)
    assert sorted(os.listdir(made.path)) == ["config.json", "generation_config.json", "model.safetensors"]
    assert_same(load_folder(made.path), made.weights)


def test_nothing_is_left_where_a_file_of_the_folder_cannot_be_written(tmp_path, monkeypatch):
    made = hugging_face.make_sharded(tmp_path)
    before = sorted(os.listdir(tmp_path))
    publish = publishing.publish

    def fails(path, fill, *arguments, **options):
        if path.endswith(INDEX):
            raise errors.StorageError("cannot write", path)
        return publish(path, fill, *arguments, **options)

    monkeypatch.setattr(publishing, "publish", fails)
    with pytest.raises(errors.StorageError, match="cannot write"):
        run_export(made.path, tmp_path / "new", "100")
    assert sorted(os.listdir(tmp_path)) == before


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


def test_the_document_names_the_shards_and_what_was_copied(tmp_path, capsys):
    made = hugging_face.make_single(tmp_path)
    assert main(["export", str(made.path), "-o", f"{tmp_path}/new/", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["output"] == f"{tmp_path}/new/"
    assert document["shards"] == ["model.safetensors"]
    assert document["copied"] == ["config.json", "generation_config.json"]


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
