"""A folder of shards with a manifest of ours is one checkpoint, and says what is wrong with it, and where."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marlin_ckpt.directory import catalog
from marlin_ckpt.formats import inspection
from marlin_ckpt.formats.layouts.dcp import metadata
from marlin_ckpt.formats.manifest import Manifest, Mesh, Sharded, summed
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.naming import MANIFEST
from marlin_ckpt.operations import one
from tests.support.dcp import metadata_of, rewrite
from tests.support.equality import is_same
from tests.support.folder_checkpoints import about
from tests.support.folder_checkpoints import save as save_folder
from tests.support.sharded_folders import loaded_by_torch, state_of, write, write_manifest


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "model_500.dcp", ranks=3)


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def inspected(folder: Path) -> inspection.Inspection:
    entry = catalog.entry(folder)
    assert entry is not None
    assert entry.layout == "sharded"
    return inspection.inspect(entry)


def sealed(folder: Path, **changes) -> None:
    """Lists the files as they are now, so that all checksums hold."""
    own = Manifest.from_json((folder / MANIFEST).read_bytes())
    write_manifest(folder, replace(own, **changes), changes.get("sharded", own.sharded))


def test_it_is_one_checkpoint_with_the_states_and_the_facts_of_a_file(folder):
    found = inspected(folder)
    assert (found.status, found.reason, found.entry.index) == (Status.COMPLETE, "", 500)
    assert found.manifest.sharded == Sharded("5f0c", 3)
    assert one.verify(folder)[:3] == (str(folder), Status.INTACT, "")
    contents = one.inspect(folder)
    assert contents.manifest == found.manifest
    states = [each.key for each in contents.root.children]
    assert states == ["module_interface_state", "trainer_state", "trainer_backend_state"]
    names = {each.name for each in contents.tensors}
    assert {"module_interface_state.0.weight", "trainer_state.optimizers[0].state.0.exp_avg"} <= names
    assert len(names) == 19


def test_torch_reads_it_as_it_was_saved(folder):
    found, state = loaded_by_torch(folder), state_of(500)
    assert is_same(found["module_interface_state"], dict(state["module_interface_state"]))
    (optimizer,) = found["trainer_state"]["optimizers"]
    wanted = state["trainer_state"]["optimizers"][0]
    assert is_same(optimizer["param_groups"], wanted["param_groups"])
    assert is_same(optimizer["state"], {str(key): value for key, value in wanted["state"].items()})


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_stock_load_reads_it_without_a_group(folder):
    import torch.distributed.checkpoint as dcp

    weight = state_of(500)["module_interface_state"]["0.weight"]
    into = {"module_interface_state": {"0.weight": torch.zeros_like(weight)}}
    dcp.load(into, checkpoint_id=folder, no_dist=True)
    assert torch.equal(into["module_interface_state"]["0.weight"], weight)


def test_a_flipped_bit_is_found_with_the_tensors_that_it_damages(folder):
    saved = metadata_of(folder).storage_data
    (place,) = (
        info
        for index, info in saved.items()
        if index.fqn.endswith("state.0.exp_avg") and index.offset[0] == 100
    )
    damage(folder / place.relative_path, place.offset + place.length - 2000)
    found = one.verify(folder)
    assert found.status is Status.CORRUPT
    assert found.tensors == ("trainer_state.optimizers.0.state.0.exp_avg",)
    assert (
        "__1_0.distcp is damaged: its CRC does not hold, in trainer_state.optimizers.0.state.0.exp_avg"
        in found.reason
    )


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


def test_what_no_item_has_is_damage_without_names(folder):
    damage(folder / "__2_0.distcp", 5)
    found = one.verify(folder)
    assert (found.status, found.tensors) == (Status.CORRUPT, ())
    assert "though those of all that it holds do" in found.reason


def test_damaged_metadata_is_found_and_no_tree_is_made_of_it(folder):
    damage(folder / ".metadata", 700)
    assert one.verify(folder).reason == "the CRC of .metadata does not hold"
    with pytest.raises(Exception, match=r"the CRC of \.metadata does not hold"):
        one.inspect(folder)


def test_metadata_of_more_ranks_than_there_are_is_compared_by_its_checksum_alone(folder, monkeypatch):
    monkeypatch.setattr(metadata, "LARGEST_PICKLE", 1000)
    monkeypatch.setattr(metadata, "LARGEST_OF_COLUMNS", 1000)
    assert one.verify(folder)[1:3] == (
        Status.INTACT, ".metadata is too large to be compared with the shards"
    )  # fmt: skip
    damage(folder / ".metadata", 700)
    assert one.verify(folder).reason == "the CRC of .metadata does not hold"


def test_a_missing_shard_makes_it_incomplete_and_is_named_with_what_it_held(folder):
    (folder / "__1_0.distcp").unlink()
    found = one.verify(folder)
    assert found.status is inspected(folder).status is Status.INCOMPLETE
    assert found.reason.startswith("__1_0.distcp is missing, with ")
    assert "module_interface_state.0.weight" in found.tensors
    assert "trainer_state.epoch" not in found.tensors
    assert one.inspect(folder).gaps[0] == "__1_0.distcp is missing"


def test_a_shard_that_was_cut_makes_it_incomplete(folder):
    with open(folder / "__1_0.distcp", "r+b") as file:
        file.truncate(5000)
    assert one.verify(folder).status is Status.INCOMPLETE
    assert "has 5,000 bytes" in inspected(folder).reason


def test_all_shards_missing_is_incomplete_and_no_matter_of_a_newer_version(folder):
    for each in folder.glob("*.distcp"):
        each.unlink()
    assert inspected(folder).status is Status.INCOMPLETE


def test_shards_of_two_saves_are_refused_even_where_all_sizes_agree(folder, tmp_path):
    other = write(tmp_path / "other" / "model_500.dcp", ranks=3, save_id="9e1b")
    assert {each.name: each.stat().st_size for each in folder.glob("*.distcp")} == {
        each.name: each.stat().st_size for each in other.glob("*.distcp")
    }
    assert (other / ".metadata").read_bytes() == (folder / ".metadata").read_bytes()
    shutil.copy(other / "__2_0.distcp", folder)
    found = one.verify(folder)
    assert found.status is Status.CORRUPT
    assert "__2_0.distcp is of another save, 9e1b: shards of two saves are mixed" in found.reason
    sealed(folder)
    assert one.verify(folder).reason == found.reason


def test_a_shard_of_another_tool_is_refused(folder):
    torch.save(torch.ones(3), folder / "__2_0.distcp")
    sealed(folder)
    found = one.verify(folder)
    assert found.status is Status.CORRUPT
    assert "__2_0.distcp does not say which save it is of" in found.reason


def test_metadata_that_does_not_fit_the_shards_is_refused(folder):
    metadata = metadata_of(folder)
    index = next(one for one in metadata.storage_data if one.fqn.endswith("0.bias"))
    metadata.storage_data[index].offset += 64
    rewrite(folder, metadata)
    sealed(folder)
    found = one.verify(folder)
    assert found.status is Status.CORRUPT
    assert "has not module_interface_state.0.bias where .metadata says" in found.reason
    assert "module_interface_state.0.bias" in found.tensors


def test_a_shard_that_the_metadata_does_not_name_is_refused(folder):
    shutil.copy(folder / "__2_0.distcp", folder / "__3_0.distcp")
    sealed(folder)
    assert "__3_0.distcp holds nothing that .metadata names" in one.verify(folder).reason


def test_a_shard_that_the_manifest_does_not_list_is_refused(folder):
    data = (folder / "__2_0.distcp").read_bytes()
    (folder / "__2_0.distcp").unlink()
    sealed(folder)
    assert "__2_0.distcp is missing" in one.verify(folder).reason
    (folder / "__2_0.distcp").write_bytes(data)
    assert inspected(folder).reason == "not in its manifest: __2_0.distcp"


def test_a_manifest_that_says_nothing_of_shards_is_damaged(folder):
    sealed(folder, sharded=None)
    assert inspected(folder).status is one.verify(folder).status is Status.CORRUPT


def test_the_mesh_of_the_ranks_is_kept(folder):
    sharded = Sharded("5f0c", 3, Mesh(("dp", "tp"), (3, 1)))
    sealed(folder, sharded=sharded)
    assert inspected(folder).manifest.sharded == sharded
    assert one.verify(folder).status is Status.INTACT


def test_one_by_a_newer_version_cannot_be_judged(folder):
    values = json.loads((folder / MANIFEST).read_bytes())
    del values["checksum"]
    (folder / MANIFEST).write_bytes(summed(json.dumps({**values, "format_version": 2}).encode()))
    entry = catalog.entry(folder)
    assert inspection.inspect(entry).status is Status.UNVERIFIABLE


@pytest.mark.parametrize("name", ["model_500.dcp", "step"])
def test_a_folder_of_the_users_that_holds_what_torch_wrote_stays_one_of_files(whole, tmp_path, name):
    files = {each.name: each.read_bytes() for each in whole.iterdir() if each.is_file()}
    save_folder(tmp_path, name, files)
    entry = catalog.entry(tmp_path / name)
    assert entry.layout == "folder"
    assert inspection.inspect(entry).status is Status.COMPLETE


def test_its_name_decides_where_the_head_of_the_manifest_is_lost(folder):
    (folder / MANIFEST).write_bytes(b"\0" * 4096)
    assert inspected(folder).status is Status.CORRUPT


def test_any_other_name_is_known_by_its_manifest(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "of_friday")
    assert inspected(tmp_path / "of_friday").status is Status.COMPLETE


def test_manifests_by_hand_of_two_folders_are_alike(tmp_path):
    state = state_of(1)
    one_, other = (write(tmp_path / name, state, manifest=about(7)) for name in ("a_7.dcp", "b_7.dcp"))
    assert (one_ / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()
