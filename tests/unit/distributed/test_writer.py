"""`dcp.save` by MarlinWriter: a folder that appears whole, and is read by stock and by us."""

from __future__ import annotations

import pytest
import torch
import torch.distributed.checkpoint as dcp

import marlin_ckpt
import marlin_ckpt.distributed
from marlin_ckpt.distributed import MarlinWriter
from marlin_ckpt.errors import ArgumentsError
from tests.support import ranks


def test_two_ranks_save_by_dcp_and_a_refused_save_leaves_nothing(tmp_path):
    found = ranks.run(2, "tests.support.saving_ranks:write_by_dcp", directory=str(tmp_path))

    for one in found:
        assert one["new"]
        assert one["over"]
        assert one["async"]
        assert one["stands"]
        assert "a folder of this name exists" in one["exists"]
        assert "without enable_plan_caching" in one["caching"]
        assert "layout torch.sparse_coo" in one["sparse"]
        assert one["left"] == ["a_7.dcp", "a_7.dcp-caching"]
    about = found[0]["manifest"]
    assert (about["index"], about["metrics"], about["layout"]) == (7, {"loss": 0.5}, "sharded")
    assert about["sharded"]["world_size"] == 2
    assert [one["name"] for one in about["records"]] == ["__0_0.distcp", "__1_0.distcp", ".metadata"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_one_process_saves_by_dcp_without_a_process_group(tmp_path):
    state = {"w": torch.arange(5.0), "n": {"epoch": 3}}
    dcp.save(state, storage_writer=MarlinWriter(tmp_path / "deep" / "a_1.dcp", index=4))

    found = {"w": torch.zeros(5), "n": {"epoch": 0}}
    dcp.load(found, checkpoint_id=tmp_path / "deep" / "a_1.dcp")
    assert torch.equal(found["w"], state["w"])
    assert found["n"] == {"epoch": 3}

    state["w"].untyped_storage().resize_(0)
    with pytest.raises(dcp.api.CheckpointException, match="w: its memory has been freed"):
        dcp.save(state, storage_writer=MarlinWriter(tmp_path / "deep" / "a_1.dcp"))


def test_arguments_are_checked_before_anything_is_written(tmp_path):
    for arguments in ({"index": -1}, {"metrics": {"loss": "low"}}):
        with pytest.raises(ArgumentsError):
            MarlinWriter(tmp_path / "a_1.dcp", **arguments)
    with pytest.raises(ArgumentsError, match="use_collectives"):
        MarlinWriter(tmp_path / "a_1.dcp").set_up_storage_writer(True, rank=0, use_collectives=False)


def test_the_public_names_of_the_package_are_bound_on_first_use():
    assert "MarlinWriter" in dir(marlin_ckpt.distributed)
    for name in marlin_ckpt.distributed.__all__:
        assert getattr(marlin_ckpt.distributed, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Writer'"):
        _ = marlin_ckpt.distributed.Writer
