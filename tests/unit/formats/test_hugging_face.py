"""Folders of weights of Hugging Face: which file counts, what is missing, what is odd and harms nobody."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import CorruptCheckpointError, StorageError
from marlin_ckpt.formats import inspection
from marlin_ckpt.formats.layouts import Names, members
from marlin_ckpt.formats.layouts.peft import PeftLayout
from marlin_ckpt.formats.verdicts import Inspection, Status
from marlin_ckpt.operations import one
from marlin_ckpt.storage.local.files import FileSource
from tests.support.foreign.hub import lfs_pointer
from tests.support.foreign.hugging_face import (
    adapter_weights,
    make_adapter,
    make_sharded,
    make_single,
    make_tied,
    write_adapter,
    write_model,
)
from tests.support.foreign.made import weights

INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00003.safetensors"


def layout(path: Path) -> str | None:
    found = catalog.entry(path)
    return found and found.layout


def inspected(path: Path) -> Inspection:
    found = catalog.entry(path)
    assert found is not None
    return inspection.inspect(found)


def sound(path: Path) -> str:
    """The reason for which a folder is unverifiable, and nothing worse."""
    found = one.verify(path)
    assert found.status is Status.UNVERIFIABLE, found
    return found.reason


def change_index(path: Path, **changed: Any) -> None:
    index = json.loads((path / INDEX).read_text())
    (path / INDEX).write_text(json.dumps({**index, **changed}))


def names(path: Path) -> set[str]:
    return {tensor.name for tensor in one.inspect(path).tensors}


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "pytorch_model.fp16.bin"])
def test_weights_of_a_variant_are_weights(tmp_path, name):
    path = make_single(tmp_path, kind=name.rpartition(".")[2]).path
    next(path.glob("*model.*")).rename(path / name)
    assert layout(path) == "hugging-face"
    assert len(names(path)) == 5


@pytest.mark.parametrize("variant", ["model.safetensors.index.fp16.json", INDEX])
def test_shards_of_a_variant_are_found_by_their_index(tmp_path, variant):
    made = make_sharded(tmp_path)
    made.path.joinpath(INDEX).rename(made.path / variant)
    made.path.joinpath(SHARD).unlink()
    assert inspected(made.path).reason == f"{SHARD} is missing"


def test_of_several_kinds_of_weights_that_is_read_which_transformers_reads(tmp_path):
    path = tmp_path / "both"
    write_model(path, weights(1), shards=3)
    write_model(path, weights(2), kind="bin")
    save_file(weights(3), path / "model.fp16.safetensors")
    reason = sound(path)
    assert f"{INDEX} is read; also there: model.fp16.safetensors, pytorch_model.bin" in reason
    with one.opened(str(path)) as opened:
        (head,) = (tensor for tensor in opened.contents.tensors if tensor.name == "lm_head.weight")
        assert np.array_equal(opened.values(head), weights(1)["lm_head.weight"].numpy().reshape(-1))
    save_file(weights(4), path / "model.safetensors")
    assert sound(path).split("; ")[2].startswith("model.safetensors is read")


def test_damage_of_weights_that_are_not_read_is_found_and_their_absence_is_not_missed(tmp_path):
    path = tmp_path / "both"
    write_model(path, weights(1))
    write_model(path, weights(1), shards=3, kind="bin")
    damaged = path / "pytorch_model-00002-of-00003.bin"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    assert one.verify(path).status is Status.CORRUPT
    assert damaged.name in one.verify(path).reason
    for shard in path.glob("*.bin"):  # a download of safetensors and JSON alone leaves the other index
        shard.unlink()
    sound(path)


def test_a_tied_tensor_that_no_shard_has_is_not_missed(tmp_path):
    assert "lm_head" not in sound(make_tied(tmp_path).path)


def test_what_an_index_says_otherwise_than_the_files_is_a_note(tmp_path):
    path = make_sharded(tmp_path).path
    places = json.loads((path / INDEX).read_text())["weight_map"]
    del places["lm_head.weight"]
    change_index(path, metadata={"total_size": 1e3}, weight_map=places)
    reason = sound(path)
    assert "its index does not list lm_head.weight" in reason
    assert "its index states 1,000 bytes of tensors, and its files hold 512" in reason


@pytest.mark.parametrize("size", [512, 512.0, None, "many", float("nan"), float("inf")])
def test_an_index_states_the_right_size_or_none(tmp_path, size):
    path = make_sharded(tmp_path).path
    change_index(path, metadata={"total_size": size})
    assert "states" not in sound(path)


def test_an_index_is_read_once_however_large_it_is(tmp_path, monkeypatch):
    path = make_sharded(tmp_path).path
    parsed, parse = [], members.parsed

    def counting(text: bytes, of: str) -> Any:
        parsed.append(os.path.basename(of))
        return parse(text, of)

    monkeypatch.setattr(members, "parsed", counting)
    assert one.verify(path).status is Status.UNVERIFIABLE
    assert sorted(parsed) == ["config.json", "generation_config.json", INDEX]


def test_a_shard_of_an_older_save_is_a_note(tmp_path):
    path = make_sharded(tmp_path).path
    shutil.copy(path / SHARD, path / "model-00007-of-00009.safetensors")
    assert f"{INDEX} does not list model-00007-of-00009.safetensors" in sound(path)


def test_two_shards_that_were_swapped_are_noticed_and_not_exported(tmp_path):
    path = make_sharded(tmp_path).path
    first, second = path / "model-00001-of-00003.safetensors", path / SHARD
    first.rename(tmp_path / "kept")
    second.rename(first)
    (tmp_path / "kept").rename(second)
    found = one.verify(path)
    assert found.status is Status.CORRUPT
    assert f"{SHARD} lacks" in found.reason
    with pytest.raises(CorruptCheckpointError, match="lacks"), one.opened(str(path)):
        pass


def test_shards_without_their_index_lack_it(tmp_path):
    path = make_sharded(tmp_path).path
    (path / INDEX).unlink()
    assert inspected(path).reason == f"{INDEX} is missing"


def test_a_configuration_without_weights_lacks_them_but_not_where_they_have_another_format(tmp_path):
    path = make_single(tmp_path).path
    (path / "model.safetensors").unlink()
    assert inspected(path).reason == "the weights are missing"
    (path / "onnx").mkdir()
    assert layout(path) is None


def test_the_configuration_of_a_generative_model_is_missed(tmp_path):
    for made in (make_single(tmp_path), make_sharded(tmp_path)):
        (made.path / "config.json").unlink()
        assert inspected(made.path).reason == "config.json is missing"
    (made.path / "generation_config.json").unlink()
    assert inspected(made.path).reason == "config.json is missing"
    change_index(made.path, metadata={"total_size": 512})  # as others than Transformers write it
    sound(made.path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", f"{INDEX}: not JSON"),
        ("[]", f"{INDEX}: not a JSON object"),
        ("{}", f"{INDEX}: without a weight_map"),
        ('{"weight_map": {"a": 1}}', f"{INDEX}: without a weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', f"{INDEX} names a file outside of the folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', f"{INDEX} names a file outside of the folder: /etc/passwd"),
    ],
)
def test_an_index_that_no_tool_wrote_is_wrong(tmp_path, text, reason):
    path = make_sharded(tmp_path).path
    (path / INDEX).write_text(text)
    found = one.verify(path)
    assert found.status is Status.CORRUPT
    assert found.reason.startswith(reason)


def test_settings_that_were_cut_off_are_found(tmp_path):
    path = make_single(tmp_path).path
    (path / "generation_config.json").write_text('{"a": ')
    assert one.verify(path).reason == "generation_config.json: not JSON"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "config.json"])
def test_every_file_is_read_though_it_has_no_checksums(tmp_path, monkeypatch, name):
    path = make_single(tmp_path).path
    (path / "tokenizer.model").write_bytes(b"words" * 100)  # more than says what it is
    bad = (path / name).read_bytes()[-8:]
    read = FileSource.read_into

    def failing(self, offset, buffer):
        done = read(self, offset, buffer)
        if bytes(buffer[:done]).endswith(bad):
            raise StorageError("cannot read", self.path)
        return done

    monkeypatch.setattr(FileSource, "read_into", failing)
    with pytest.raises(StorageError):
        one.verify(path)


@pytest.mark.parametrize("name", [SHARD, "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_a_file_that_is_missing(tmp_path, name):
    path = make_sharded(tmp_path).path
    (path / name).write_bytes(lfs_pointer(b"content"))
    found = one.verify(path)
    assert found.status is Status.INCOMPLETE
    assert found.reason == f"{name} is a git-lfs pointer: `git lfs pull` fetches the file"


def test_an_adapter_needs_its_settings_and_its_weights(tmp_path):
    path = make_adapter(tmp_path).path
    sound(path)
    assert layout(path) == "peft"
    (path / "adapter_model.safetensors").rename(tmp_path / "kept")
    assert inspected(path).reason == "adapter_model.safetensors is missing"
    (tmp_path / "kept").rename(path / "adapter_model.safetensors")
    for text, reason in (
        ("{}", "without a peft_type"),
        ('{"r": 8}', "without a peft_type"),
        ("{", "not JSON"),
    ):
        (path / "adapter_config.json").write_text(text)
        assert one.verify(path).reason == f"adapter_config.json: {reason}"
    (path / "adapter_config.json").unlink()
    assert inspected(path).reason == "adapter_config.json is missing"


def test_an_adapter_of_an_older_release_is_a_pickle(tmp_path):
    path = make_adapter(tmp_path).path
    torch.save(load_file(path / "adapter_model.safetensors"), path / "adapter_model.bin")
    (path / "adapter_model.safetensors").unlink()
    assert names(path) == set(adapter_weights())
    assert sound(path)


def test_a_second_adapter_is_a_checkpoint_of_its_own(tmp_path):
    path = make_adapter(tmp_path).path
    write_adapter(path / "other", adapter_weights(1))
    assert layout(path / "other") == "peft"
    found = catalog.find(tmp_path, extension="pt", recursive=True, foreign=True)
    assert {one.path for one in found} == {str(path), str(path / "other")}


def test_an_adapter_beside_a_whole_model_is_part_of_the_model(tmp_path):
    path = make_single(tmp_path).path
    write_adapter(path, adapter_weights())
    assert layout(path) == "hugging-face"
    assert PeftLayout().recognises(Names(frozenset(os.listdir(path)), frozenset()))


def test_a_pipeline_of_diffusers_is_one_checkpoint_for_each_of_its_models(tmp_path):
    path = tmp_path / "pipeline"
    write_model(path / "unet", weights(1))
    (path / "unet" / "model.safetensors").rename(path / "unet" / "diffusion_pytorch_model.safetensors")
    (path / "model_index.json").write_text("{}")
    assert layout(path) is None
    assert layout(path / "unet") == "hugging-face"
    assert sound(path / "unet")
