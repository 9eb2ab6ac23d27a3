"""`export` to folders that `from_pretrained` and safetensors read."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from marlin_ckpt import errors
from marlin_ckpt.cli.main import main
from marlin_ckpt.operations import weights_file
from marlin_ckpt.operations.one import opened
from marlin_ckpt.storage.local import publishing
from tests.support.exports import INDEX, assert_same, load_folder, run_export
from tests.support.foreign import corpus, hugging_face


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


def test_an_adapter_is_one_file_of_the_name_that_peft_reads_with_its_configuration(tmp_path):
    made = hugging_face.make_adapter(tmp_path)
    done = run_export(made.path, f"{tmp_path}/new/")
    assert done.shards == ("adapter_model.safetensors",)
    assert sorted(os.listdir(tmp_path / "new")) == ["adapter_config.json", "adapter_model.safetensors"]
    assert_same(load_file(tmp_path / "new" / "adapter_model.safetensors"), made.weights)
    with pytest.raises(errors.UnsavableStateError, match="PEFT reads no shards"):
        run_export(made.path, f"{tmp_path}/shards/", "64")
    assert not (tmp_path / "shards").exists()


def test_files_of_the_configuration_are_those_of_the_folder_and_none_below_it(tmp_path):
    made = corpus.CHECKPOINTS["trainer"](tmp_path)
    (made.path / "tokenizer").mkdir()
    (made.path / "tokenizer" / "vocab.json").write_text("{}")
    (made.path / "tokenizer.json").write_text("{}")
    done = run_export(made.path, f"{tmp_path}/new/")
    assert done.copied == ("config.json", "generation_config.json", "tokenizer.json")


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


def test_force_replaces_no_folder_with_another_folder_in_it_whatever_its_name(tmp_path):
    made = hugging_face.make_single(tmp_path)
    inner = tmp_path / "old" / "tokenizer-of-mine"
    inner.mkdir(parents=True)
    (inner / "thesis.tex").write_text("years")
    with pytest.raises(errors.StorageError, match="holds more than weights: tokenizer-of-mine"):
        run_export(made.path, f"{tmp_path}/old/", force=True)
    assert (inner / "thesis.tex").read_text() == "years"


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


def test_the_document_names_the_shards_and_what_was_copied(tmp_path, capsys):
    made = hugging_face.make_single(tmp_path)
    assert main(["export", str(made.path), "-o", f"{tmp_path}/new/", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["output"] == f"{tmp_path}/new/"
    assert document["shards"] == ["model.safetensors"]
    assert document["copied"] == ["config.json", "generation_config.json"]
