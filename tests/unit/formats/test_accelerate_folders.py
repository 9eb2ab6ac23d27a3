"""A folder of Accelerate's `save_state` is one checkpoint, whatever its name; what it lacks is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats import inspection
from marlin_ckpt.formats.layouts.accelerate import MERGE
from marlin_ckpt.formats.verdicts import Inspection, Status
from marlin_ckpt.operations import export, one
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.folders import numbered
from tests.support.foreign.accelerate import (
    make_accelerate,
    make_accelerate_bin,
    make_accelerate_fsdp,
    make_accelerate_full_fsdp,
    make_accelerate_named,
    make_accelerate_of_two,
)
from tests.support.foreign.deepspeed import write_deepspeed
from tests.support.foreign.made import Made, weights
from tests.support.foreign.trainer import make_trainer


def inspected(path: Path) -> Inspection:
    entry = catalog.entry(path)
    assert entry is not None
    assert entry.layout == "accelerate"
    return inspection.inspect(entry)


def trees(path: Path) -> list[str]:
    return [node.key for node in one.inspect(path).root.children]


@pytest.mark.parametrize(
    "make",
    [
        make_accelerate, make_accelerate_bin, make_accelerate_named, make_accelerate_of_two,
        make_accelerate_fsdp, make_accelerate_full_fsdp,
    ],
)  # fmt: skip
def test_a_whole_folder_is_complete_and_unverifiable(tmp_path, make):
    made: Made = make(tmp_path)
    assert inspected(made.path).status is Status.COMPLETE
    assert one.verify(made.path).status is Status.UNVERIFIABLE


def test_each_file_is_a_state_under_the_name_that_accelerate_gives_it(tmp_path):
    made = make_accelerate_of_two(tmp_path)
    assert trees(made.path) == [
        "model", "model_1", "optimizer", "optimizer_1", "scheduler", "scheduler_1", "sampler",
        "dl_state_dict", "scaler", "custom_checkpoint_0", "custom_checkpoint_1",
        "random_states_0", "random_states_1",
    ]  # fmt: skip


def test_the_weights_of_each_model_are_read_from_its_own_file(tmp_path):
    made = make_accelerate_of_two(tmp_path)
    with one.opened(str(made.path)) as file:
        found = {tensor.name: (tensor.file, file.bits(tensor)) for tensor in file.contents.tensors}
    for name, value in made.weights.items():
        holder, bits = found[name if name.startswith("model_1.") else f"model.{name}"]
        assert (holder,) == made.holders[name]
        np.testing.assert_array_equal(bits, value.numpy().reshape(-1))


def test_weights_that_fsdp_sharded_are_put_together_and_shown_first(tmp_path):
    made = make_accelerate_fsdp(tmp_path)
    assert trees(made.path) == [
        "model", "optimizer", "scheduler", "custom_checkpoint_0", "random_states_0", "random_states_1",
    ]  # fmt: skip
    with one.opened(str(made.path)) as file:
        found = {tensor.name: file.bits(tensor) for tensor in file.contents.tensors}
    for name, value in made.weights.items():
        np.testing.assert_array_equal(found[name], value.numpy().reshape(-1))


@pytest.mark.parametrize("folder", ["pytorch_model_fsdp", "optimizer"])
def test_a_gap_in_the_numbers_of_sharded_folders_is_named(tmp_path, folder):
    made = make_accelerate_fsdp(tmp_path)
    shutil.copytree(made.path / f"{folder}_0", made.path / f"{folder}_1")
    assert inspected(made.path).status is Status.COMPLETE
    shutil.rmtree(made.path / f"{folder}_0")
    assert inspected(made.path).reason == f"{folder}_0 is missing"


@pytest.mark.parametrize("file", ["pytorch_model_fsdp_0/__1_0.distcp", "optimizer_0/.metadata"])
def test_a_file_that_a_sharded_folder_lacks_is_named_with_the_folder(tmp_path, file):
    made = make_accelerate_fsdp(tmp_path)
    (made.path / file).unlink()
    for found in (inspected(made.path), one.verify(made.path)):
        assert found.status is Status.INCOMPLETE
        assert found.reason.startswith(f"{file.partition('/')[0]}: ")
        assert file.partition("/")[2] in found.reason


@pytest.mark.parametrize(
    "file",
    [
        "model.safetensors", "optimizer.bin", "scheduler.bin", "custom_checkpoint_0.pkl",
        "random_states_0.pkl",
    ],
)  # fmt: skip
def test_a_gap_in_the_numbers_of_a_state_is_named(tmp_path, file):
    made = make_accelerate_of_two(tmp_path)
    (made.path / file).unlink()
    for found in (inspected(made.path), one.verify(made.path)):
        assert found.status is Status.INCOMPLETE
        assert found.reason == f"{file} is missing"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("model.safetensors", "the weights of the model are missing"),
        ("optimizer.bin", "optimizer.bin is missing"),
        ("random_states_0.pkl", "random_states_0.pkl is missing"),
    ],
)
def test_the_only_file_of_a_state_that_every_run_has_is_missed(tmp_path, file, reason):
    made = make_accelerate(tmp_path)
    (made.path / file).unlink()
    assert inspected(made.path).reason == reason


def test_a_gap_among_weights_in_bin_files_is_named_as_its_neighbours_are(tmp_path):
    made = make_accelerate(tmp_path, models=3, safe=False)
    (made.path / "pytorch_model_1.bin").unlink()
    assert inspected(made.path).reason == "pytorch_model_1.bin is missing"


@pytest.mark.parametrize("file", ["sampler.bin", "dl_state_dict.bin"])
def test_a_loader_without_a_file_of_its_own_is_no_gap(tmp_path, file):
    made = make_accelerate(tmp_path, samplers=2, loaders=2)
    (made.path / file).unlink()
    assert inspected(made.path).status is Status.COMPLETE


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer_1.bin", "random_states_1.pkl", "scaler.pt"])
def test_a_file_that_was_cut_off_makes_the_folder_corrupt(tmp_path, file):
    made = make_accelerate_of_two(tmp_path)
    data = (made.path / file).read_bytes()
    (made.path / file).write_bytes(data[: len(data) // 2])
    for found in (inspected(made.path), one.verify(made.path)):
        assert found.status is Status.CORRUPT
        assert found.reason.startswith(f"{file}: ")


def test_a_changed_bit_of_an_optimizer_is_found_by_its_own_checksum(tmp_path):
    made = make_accelerate(tmp_path)
    data = bytearray((made.path / "optimizer.bin").read_bytes())
    value = torch.load(made.path / "optimizer.bin")["state"][0]["exp_avg"].numpy().tobytes()
    data[data.index(value)] ^= 1
    (made.path / "optimizer.bin").write_bytes(data)
    found = one.verify(made.path)
    assert (found.status, found.reason.partition(":")[0]) == (Status.CORRUPT, "optimizer.bin")


def test_weights_that_a_hook_saved_in_its_own_way_are_shown_and_no_other_model_is_missed(tmp_path):
    made = make_accelerate(tmp_path)
    (made.path / "unet").mkdir()
    shutil.move(made.path / "model.safetensors", made.path / "unet/diffusion_pytorch_model.safetensors")
    save_file(weights(), made.path / "pytorch_lora_weights.safetensors")
    assert inspected(made.path).status is Status.COMPLETE
    assert {"unet", "pytorch_lora_weights"} < set(trees(made.path))


@pytest.mark.parametrize("ranks", [(0, 2), (1,)])
def test_what_each_rank_saved_of_a_sharded_model_is_counted_and_never_exported(tmp_path, ranks):
    made = make_accelerate(tmp_path)
    for rank in ranks:
        shutil.copy(made.path / "optimizer.bin", made.path / f"pytorch_model_fsdp_0_rank{rank}.bin")
    (made.path / "model.safetensors").unlink()
    gap = max(ranks) - 1
    assert inspected(made.path).reason == f"pytorch_model_fsdp_0_rank{gap}.bin is missing"
    shutil.copy(made.path / "optimizer.bin", made.path / f"pytorch_model_fsdp_0_rank{gap}.bin")
    assert inspected(made.path).status is Status.COMPLETE
    with one.opened(str(made.path)) as file, pytest.raises(UnsavableStateError) as caught:
        export.select(file.contents, Wanted())
    assert caught.value.hint == MERGE


def test_a_folder_in_it_that_lacks_a_rank_is_named_with_what_is_missing(tmp_path):
    made = make_accelerate(tmp_path)
    (made.path / "model.safetensors").unlink()
    write_deepspeed(made.path, weights(), step=4, tag="pytorch_model")
    assert inspected(made.path).status is Status.COMPLETE
    assert one.verify(made.path).status is Status.UNVERIFIABLE
    (made.path / "pytorch_model/mp_rank_00_model_states.pt").unlink()
    for found in (inspected(made.path), one.verify(made.path)):
        assert found.status is Status.INCOMPLETE
        assert found.reason == "pytorch_model: mp_rank_00_model_states.pt is missing"


def test_a_file_in_a_folder_in_it_that_was_cut_off_is_named(tmp_path):
    made = make_accelerate(tmp_path)
    write_deepspeed(made.path, weights(), step=4, tag="pytorch_model")
    path = made.path / "pytorch_model/mp_rank_00_model_states.pt"
    path.write_bytes(path.read_bytes()[:-100])
    for found in (inspected(made.path), one.verify(made.path)):
        assert found.status is Status.CORRUPT
        assert found.reason.startswith("pytorch_model: mp_rank_00_model_states.pt: ")


def test_a_huge_number_in_a_name_takes_no_time(tmp_path):
    made = make_accelerate(tmp_path)
    shutil.copy(made.path / "optimizer.bin", made.path / "optimizer_99999999999999999999.bin")
    assert inspected(made.path).status is Status.INCOMPLETE


def test_what_a_run_has_prepared_is_asked_for_before_what_a_folder_says_of_itself(tmp_path):
    made = make_accelerate(tmp_path)  # whole, for a run with one optimizer
    found = numbered.verify(str(made.path), lambda _: "optimizer_1.bin")
    assert (found.status, found.reason) == (Status.INCOMPLETE, "optimizer_1.bin is missing")


def test_a_folder_of_the_trainer_is_not_taken_for_one_of_accelerate(tmp_path):
    made = make_trainer(tmp_path)
    shutil.copy(made.path / "optimizer.pt", made.path / "optimizer.bin")
    entry = catalog.entry(made.path)
    assert entry is None or entry.layout != "accelerate"
