"""What four ranks saved, sharded in every way, is intact and becomes the file of one process."""

from __future__ import annotations

import pytest
import torch

import marlin_ckpt
from marlin_ckpt.directory import catalog
from marlin_ckpt.formats.manifest import Mesh
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.operations import one
from marlin_ckpt.operations.rescue.shards import salvage_folder
from marlin_ckpt.operations.whole.converting import convert
from tests.support import converted_ranks, ranks
from tests.support.computed import computed
from tests.support.equality import is_same
from tests.support.sharded_folders import loaded_by_torch


def test_what_ranks_saved_is_verified_shown_converted_and_rescued_as_one_state(tmp_path):
    folder = tmp_path / "model_7.dcp"
    ranks.run(4, "tests.support.converted_ranks:save", path=str(folder))

    wanted = converted_ranks.whole()
    model = wanted["module_interface_state"]
    model["tied"] = model["rows"]
    wanted["trainer_state"]["ranks"] = {str(rank): {"rng": rank} for rank in range(4)}
    assert one.verify(folder)[1:3] == (Status.INTACT, "")
    contents = one.inspect(folder)
    assert contents.gaps == ()
    assert contents.manifest.sharded.mesh == Mesh(("dp", "tp"), (2, 2))
    kept = marlin_ckpt.read_statistics(folder)
    assert {*kept} == {each.name for each in contents.tensors}
    for name, each in computed(folder).items():  # the order in which elements are summed differs
        assert tuple(kept[name]) == pytest.approx(tuple(each), rel=1e-6, nan_ok=True), name
    shapes = {each.name: each.shape for each in contents.tensors}
    assert shapes["module_interface_state.both"] == (6, 6)
    storages = {each.name.rpartition(".")[2]: each.storage for each in contents.tensors}
    assert storages["tied"] == storages["rows"] != storages["few"]  # so `show` says that they are the same

    done = convert(str(folder), str(tmp_path / "model_7.pt"))
    assert done.shared == {"module_interface_state.tied": "module_interface_state.rows"}
    found = torch.load(tmp_path / "model_7.pt", weights_only=True)
    assert is_same(found, wanted)
    assert marlin_ckpt.read_statistics(tmp_path / "model_7.pt") == kept
    assert found["module_interface_state"]["tied"].data_ptr() == (
        found["module_interface_state"]["rows"].data_ptr()
    )
    assert is_same(loaded_by_torch(folder)["module_interface_state"], model)

    convert(str(tmp_path / "model_7.pt"), str(tmp_path / "again.dcp"))
    assert one.verify(tmp_path / "again.dcp").status is Status.INTACT
    assert marlin_ckpt.read_statistics(tmp_path / "again.dcp") == kept
    assert is_same(loaded_by_torch(tmp_path / "again.dcp")["module_interface_state"], model)

    (folder / "__3_0.distcp").unlink()
    rescued = salvage_folder(catalog.entry(folder), tmp_path / "rescued.pt")
    (lost,) = rescued.lost
    assert "module_interface_state.both" in lost.tensors
    left = torch.load(tmp_path / "rescued.pt", weights_only=True)
    assert torch.equal(left["module_interface_state"]["alike"], model["alike"])
    assert "both" not in left["module_interface_state"]
    assert marlin_ckpt.read_statistics(tmp_path / "rescued.pt") == kept
