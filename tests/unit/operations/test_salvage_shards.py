"""What is intact in a damaged or incomplete sharded checkpoint can be taken out, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import CorruptCheckpointError, StorageError
from marlin_ckpt.formats.shards.reader import read_shard
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.operations import one
from marlin_ckpt.operations.rescue.remedies import salvage_command
from marlin_ckpt.operations.rescue.shards import SalvagedFolder, salvage_folder
from marlin_ckpt.storage.local.files import open_source
from tests.support.dcp import flip, metadata_of
from tests.support.equality import is_same
from tests.support.sharded_folders import state_of, write


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "model_500.dcp", ranks=3)


def salvaged(folder: Path) -> SalvagedFolder:
    return salvage_folder(catalog.entry(folder), folder.with_name("rescued.pt"))


def damage(folder: Path, name: str) -> None:
    """Flips a bit of the first piece of a tensor."""
    index = next(one for one in metadata_of(folder).storage_data if one.fqn == name)
    place = metadata_of(folder).storage_data[index]
    path = folder / place.relative_path
    with open_source(path) as source:
        item = read_shard(source).items[place.offset]
    flip(path, item.data_start + (item.start == item.data_start) * 250)


def test_a_damaged_tensor_is_lost_and_all_else_is_as_it_was(folder, tmp_path):
    damage(folder, "trainer_state.optimizers.0.state.0.exp_avg")
    found = salvaged(folder)
    assert [(each.record, each.tensors) for each in found.lost] == [
        ("__0_0.distcp", ("trainer_state.optimizers.0.state.0.exp_avg",))
    ]
    rescued, wanted = torch.load(tmp_path / "rescued.pt", weights_only=True), state_of(500)
    del wanted["trainer_state"]["optimizers"][0]["state"][0]["exp_avg"]
    assert is_same(rescued, wanted)
    assert one.verify(tmp_path / "rescued.pt").status is Status.INTACT
    manifest = one.inspect(tmp_path / "rescued.pt").manifest
    assert (manifest.lost, manifest.layout) == (["trainer_state.optimizers.0.state.0.exp_avg"], "")


def test_with_a_missing_shard_every_tensor_that_it_had_a_part_of_is_lost(folder, tmp_path):
    (folder / "__2_0.distcp").unlink()
    found = salvaged(folder)
    assert [each.record for each in found.lost] == ["__2_0.distcp"]
    rescued = torch.load(tmp_path / "rescued.pt", weights_only=True)
    assert "0.weight" not in rescued["module_interface_state"]
    assert torch.equal(
        rescued["module_interface_state"]["1.num_batches_tracked"],
        state_of(500)["module_interface_state"]["1.num_batches_tracked"],
    )
    assert rescued["trainer_state"]["epoch"] == 500


def test_a_shard_of_another_save_is_lost_as_a_whole(folder, tmp_path):
    other = write(tmp_path / "other" / "model_500.dcp", ranks=3, save_id="9e1b")
    shutil.copy(other / "__1_0.distcp", folder)
    assert "module_interface_state.0.weight" in salvaged(folder).lost[0].tensors


def test_a_list_is_lost_with_any_of_its_parts(tmp_path):
    state = {"list": [torch.ones(300), torch.zeros(300), 3], "other": torch.ones(3)}
    folder = write(tmp_path / "model_1.dcp", state, ranks=1)
    damage(folder, "list.1")
    salvaged(folder)
    assert torch.load(tmp_path / "rescued.pt").keys() == {"other"}


def test_lost_kinds_are_in_doubt(tmp_path):
    folder = write(tmp_path / "model_1.dcp", {"a": {1: torch.ones(3)}}, ranks=1)
    damage(folder, ".marlin.kinds")
    assert "keys that were no texts are texts" in salvaged(folder).doubts[0]
    assert torch.load(tmp_path / "rescued.pt")["a"].keys() == {"1"}


def test_without_metadata_nothing_can_be_salvaged_and_no_hint_says_so(folder, tmp_path, capsys):
    flip(folder / ".metadata", 800)
    for said in (
        r"the CRC of \.metadata does not hold, and nothing else says",
        r"\.metadata is missing, which",
    ):
        with pytest.raises(CorruptCheckpointError, match=rf"nothing can be salvaged: {said}"):
            salvaged(folder)
        assert not (tmp_path / "rescued.pt").exists()
        assert main(["verify", str(folder)]) == 3
        assert "salvage" not in capsys.readouterr().err
        (folder / ".metadata").unlink(missing_ok=True)


@pytest.mark.parametrize("where", ["damaged", "gone"])
def test_without_a_manifest_all_that_holds_is_salvaged(folder, tmp_path, where):
    """So is it of what torch's own writer wrote, which has none."""
    damage(folder, "trainer_state.optimizers.0.state.0.exp_avg")
    other = write(tmp_path / "other" / "model_500.dcp", ranks=3, save_id="9e1b")
    shutil.copy(other / "__1_0.distcp", folder)
    if where == "gone":
        shutil.rmtree(folder / ".marlin")
    else:
        flip(folder / ".marlin/manifest.json", 60)
    found = salvaged(folder)
    assert [each.record for each in found.lost] == ["__0_0.distcp", "__1_0.distcp"]
    assert [one.partition(":")[0] for one in found.doubts] == (
        ["the manifest is damaged"] * (where == "damaged")
    )
    rescued = torch.load(tmp_path / "rescued.pt", weights_only=True)
    assert rescued["trainer_state"]["epoch"] == 500
    assert "0.weight" not in rescued["module_interface_state"]
    wanted = state_of(500)["module_interface_state"]["1.num_batches_tracked"]
    assert torch.equal(rescued["module_interface_state"]["1.num_batches_tracked"], wanted)
    assert one.inspect(tmp_path / "rescued.pt").manifest is None


def test_reading_a_damaged_tensor_names_it_and_what_to_type(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    damage(folder, "module_interface_state.0.weight")
    for command in (
        ["export", folder.name, "-o", "a.pt", "--state", "all"],
        ["diff", folder.name, folder.name],
    ):
        assert main(command) == 3
        printed = capsys.readouterr().err
        assert (
            "tensor module_interface_state.0.weight: the CRC of record archive/data/0 does not hold"
            in printed
        )
        assert f"in __0_0.distcp: {folder.name}\n" in printed
        assert f"marlin-ckpt salvage {folder.name} -o rescued.pt" in printed


def test_nothing_is_replaced_and_nothing_is_written_of_nothing(folder, tmp_path):
    (tmp_path / "rescued.pt").touch()
    with pytest.raises(StorageError, match="already there"):
        salvaged(folder)
    (tmp_path / "rescued.pt").unlink()
    for each in folder.glob("*.distcp"):
        each.unlink()
    assert salvage_command(str(folder)) == ""
    with pytest.raises(CorruptCheckpointError, match="all of its shards are lost"):
        salvaged(folder)
    assert not (tmp_path / "rescued.pt").exists()


def test_the_command_says_what_is_lost_and_verify_names_it(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    damage(folder, "module_interface_state.0.weight")
    assert main(["verify", "model_500.dcp"]) == 3
    printed = capsys.readouterr()
    assert "hint: `marlin-ckpt salvage model_500.dcp -o rescued.pt` takes out what is intact" in printed.err
    assert main(["salvage", "model_500.dcp", "-o", "rescued.pt"]) == 3
    printed = capsys.readouterr()
    assert printed.out == "lost  module_interface_state.0.weight  (__0_0.distcp)\n"
    assert "1 tensor lost" in printed.err
