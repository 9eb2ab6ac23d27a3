"""Folders of torch's Distributed Checkpoint: what is in them, and what is noticed when one is damaged."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from marlin_ckpt.errors import CorruptCheckpointError, NotACheckpointError
from marlin_ckpt.formats import inspection
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.operations import one
from tests.support.dcp import entry_of, flip, metadata_of, read_all, rewrite, verified
from tests.support.foreign import dcp_folders, lightning, real_dcp
from tests.support.foreign.corpus import CHECKPOINTS
from tests.support.foreign.made import Made

SMALL = ("dcp", "dcp-of-one", "dcp-old", "torchtitan", "megatron", "lightning-sharded", "lightning-fsdp")
SHARD = "__0_0.distcp"


@pytest.fixture
def made(tmp_path) -> Made:
    return dcp_folders.make_dcp(tmp_path)


def test_a_shard_alone_is_no_damaged_file_but_a_part_of_its_folder(made):
    shard = made.path / SHARD
    found = one.verify(shard)
    assert (found.status, found.reason) == (Status.NOT_A_CHECKPOINT, "not a checkpoint but a shard of one")
    assert found.hint == f"name its folder: {made.path}"
    with pytest.raises(NotACheckpointError, match="a shard"):
        one.inspect(shard)
    with pytest.raises(NotACheckpointError, match="a shard"), one.opened(str(shard)):
        pass


@pytest.mark.parametrize("name", SMALL)
def test_the_weights_of_each_tools_folder_are_read_whole(tmp_path, name):
    made = CHECKPOINTS[name](tmp_path)
    read = read_all(made.path)
    assert all(torch.equal(read[key], weight) for key, weight in made.weights.items())
    assert entry_of(made.path).index == made.step


@pytest.mark.parametrize("name", SMALL)
def test_a_whole_folder_is_complete_and_unverifiable(tmp_path, name):
    folder = CHECKPOINTS[name](tmp_path).path
    assert inspection.inspect(entry_of(folder)).status is Status.COMPLETE
    verdict = verified(folder)
    assert verdict.status is Status.UNVERIFIABLE
    assert "the checksums of all" in verdict.reason
    assert ".metadata has none, and nothing in the shards says which save they are of" in verdict.reason


def test_torchs_own_folders_are_read_as_torch_reads_them(tmp_path):
    for name, folder in real_dcp.make_alone(tmp_path).items():
        if name not in ("dcp", "torchtitan", "dcp-in-threads"):
            continue
        dcp_to_torch_save(folder.path, tmp_path / "whole.pt")
        whole = torch.load(tmp_path / "whole.pt", weights_only=False)
        read = read_all(folder.path)
        assert verified(folder.path).status is Status.UNVERIFIABLE, name
        assert len(read) >= len(folder.weights)
        for key, tensor in read.items():
            assert torch.equal(tensor, _at(whole, key)), f"{name}: {key}"


def _at(state: object, name: str) -> torch.Tensor:
    """What is in a nested state under a dotted name, whose parts may hold dots themselves."""
    if isinstance(state, torch.Tensor):
        assert not name
        return state
    assert isinstance(state, dict)
    fitting = [key for key in state if name == key or name.startswith(f"{key}.")]
    key = max(fitting, key=len)
    return _at(state[key], name[len(key) + 1 :])


def test_the_tree_has_the_keys_that_the_state_had_and_small_values(tmp_path):
    folder = lightning.make_lightning_sharded(tmp_path).path
    root = one.read(str(folder)).root
    named = {node.key: node for node in root.children}
    assert [*named][:2] == ["state_dict", "optimizer_0"]
    group = next(node for node in named["optimizer_0"].children if node.key == "param_groups").children[0]
    assert group.key == "[0]"
    assert {node.key: node.value for node in group.children}["lr"] == 5e-05
    assert named["global_step"].value == 6  # of meta.pt, which Lightning merges with the rest


@pytest.mark.parametrize("name", SMALL)
def test_each_file_that_is_removed_makes_it_incomplete_and_is_named(tmp_path, name):
    made = CHECKPOINTS[name](tmp_path / "whole")
    for file in made.needed:
        folder = tmp_path / "copy" / file / made.path.name
        shutil.copytree(made.path, folder)
        (folder / file).unlink()
        verdict = verified(folder)
        assert verdict.status is Status.INCOMPLETE, file
        assert file in verdict.reason
        assert inspection.inspect(entry_of(folder)).status is Status.INCOMPLETE
        if file.endswith(".distcp"):
            assert verdict.tensors


@pytest.mark.parametrize("name", SMALL)
def test_each_file_that_is_cut_short_makes_it_corrupt_and_is_named(tmp_path, name):
    made = CHECKPOINTS[name](tmp_path)
    for file in made.needed:
        path = made.path / file
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        verdict = verified(made.path)
        assert verdict.status is Status.CORRUPT, file
        assert file in verdict.reason
        path.write_bytes(data)


def test_a_shard_without_metadata_says_that_the_save_did_not_finish(made):
    (made.path / ".metadata").rename(made.path / ".metadata.tmp")
    verdict = verified(made.path)
    assert (verdict.status, verdict.reason) == (
        Status.INCOMPLETE,
        "the save did not finish: .metadata is missing",
    )
    with pytest.raises(CorruptCheckpointError, match=r"the save did not finish: \.metadata is missing"):
        read_all(made.path)


def test_a_flipped_bit_in_any_tensor_is_noticed_and_the_tensor_named(made):
    metadata = metadata_of(made.path)
    places = {index: info for index, info in metadata.storage_data.items() if index.offset is not None}
    for index, info in [*places.items()][::4]:
        path = made.path / info.relative_path
        data = path.read_bytes()
        record = data.index(b"archive/data/0", info.offset)
        start = data.index(b"Z", record + 14)
        start += len(data[start:]) - len(data[start:].lstrip(b"Z"))
        flip(path, start)
        verdict = verified(made.path)
        assert verdict.status is Status.CORRUPT
        assert verdict.tensors == (index.fqn,)
        assert f"the checksum of {index.fqn} does not hold" in verdict.reason
        path.write_bytes(data)


def test_two_pieces_that_changed_places_are_noticed_by_their_shapes(made):
    metadata = metadata_of(made.path)
    first, second = (
        next(index for index in metadata.storage_data if index.fqn.endswith(name))
        for name in ("wte.weight", "ln_f.weight")
    )
    stored = metadata.storage_data
    stored[first], stored[second] = stored[second], stored[first]
    rewrite(made.path, metadata)
    verdict = verified(made.path)
    assert verdict.status is Status.CORRUPT
    assert "to the metadata" in verdict.reason


def test_a_stale_shard_of_an_earlier_save_is_a_note(made):
    shutil.copy(made.path / SHARD, made.path / "__7_0.distcp")
    verdict = verified(made.path)
    assert verdict.status is Status.UNVERIFIABLE
    assert ".metadata names nothing in __7_0.distcp: another save left it" in verdict.reason


def test_the_sums_of_megatron_core_make_it_intact_and_notice_every_flipped_bit(tmp_path):
    folder = dcp_folders.make_megatron(tmp_path, integrity=True).path
    assert verified(folder).status is Status.INTACT
    for name in sorted(os.listdir(folder)):
        if name == "integrity.json":
            continue
        data = (folder / name).read_bytes()
        flip(folder / name, len(data) // 2)
        verdict = verified(folder)
        assert verdict.status is Status.CORRUPT, name
        assert name in verdict.reason
        (folder / name).write_bytes(data)
    (folder / "unlisted").write_bytes(b"x")
    assert verified(folder).status is Status.UNVERIFIABLE


def test_metadata_of_each_rank_is_one_checkpoint_and_a_missing_rank_is_noticed(made):
    _write_apart(made.path)
    read = read_all(made.path)
    assert all(torch.equal(read[name], weight) for name, weight in made.weights.items())
    assert verified(made.path).status is Status.UNVERIFIABLE
    (made.path / "__1.metadata").unlink()
    verdict = verified(made.path)
    assert verdict.status is Status.INCOMPLETE
    assert "lacks 16 of its 32 elements" in verdict.reason


def _write_apart(folder: Path) -> None:
    """The metadata of each rank in place of one for all, as `use_collectives=False` writes them."""
    for rank in range(2):
        metadata = metadata_of(folder)
        mine = {
            index: info
            for index, info in metadata.storage_data.items()
            if info.relative_path == f"__{rank}_0.distcp"
        }
        for name in [*metadata.state_dict_metadata]:
            described = metadata.state_dict_metadata[name]
            chunks = [one for one in getattr(described, "chunks", ()) if (name, one.offsets) in _keys(mine)]
            if hasattr(described, "chunks") and chunks:
                described.chunks[:] = chunks
            elif name not in {index.fqn for index in mine}:
                del metadata.state_dict_metadata[name]
        metadata.storage_data = mine
        (folder / f"__{rank}.metadata").write_bytes(pickle.dumps(metadata))
    (folder / ".metadata").unlink()


def _keys(stored: dict) -> set:
    return {(index.fqn, index.offset) for index in stored}
