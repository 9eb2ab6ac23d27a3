"""A state of many ranks becomes one folder that stock readers read."""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import marlin_ckpt
from marlin_ckpt.distributed.flat import flatten
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import prepare, save_sharded, write
from marlin_ckpt.distributed.shards.shard import Image, plain
from marlin_ckpt.errors import StorageError, UnsavableStateError
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.storage.local.direct import BLOCK_BYTES
from tests.support import ranks
from tests.support.changing_states import States
from tests.support.saving_ranks import manifest

_WORK = "tests.support.saving_ranks"


def test_stock_readers_read_what_ranks_of_all_kinds_of_meshes_saved(tmp_path):
    size = 4
    found = ranks.run(size, f"{_WORK}:save_all", directory=str(tmp_path))

    assert all(one[0] for each in found for one in each.values())
    assert all(each == found[0] for each in found)
    for folder in tmp_path.iterdir():
        manifest = json.loads((folder / ".marlin/manifest.json").read_text())
        records = {one["name"]: one["size"] for one in manifest["records"]}
        assert manifest["sharded"]["world_size"] == size
        assert {name: (folder / name).stat().st_size for name in records} == records
        assert {one.name for one in folder.iterdir()} == {*records, ".marlin"}
    assert manifest["sharded"]["mesh"]["names"]
    dcp_to_torch_save(tmp_path / "fsdp_1.dcp", tmp_path / "whole.pt")
    state = torch.load(tmp_path / "whole.pt", weights_only=False)
    for rank in range(size):
        assert state["ranks"][str(rank)]["pair"][1] == str(rank)
        assert state["ranks"][str(rank)]["pair"][0] == rank


def test_a_state_that_cannot_be_saved_is_refused_at_all_ranks_and_the_next_save_works(tmp_path):
    found = ranks.run(2, f"{_WORK}:fail_all", directory=str(tmp_path))

    for name in (
        "partial", "shapes", "kinds", "unpicklable", "meta", "no dict", "tied", "replaced", "freed"
    ):  # fmt: skip
        texts = {one[name].replace("rank 0: ", "").replace("rank 1: ", "") for one in found}
        assert len(texts) == 1, texts
        assert texts.pop().startswith("UnsavableStateError")
    what = "ranks.1.w is at rank 1 the tensor w, which rank 0 writes"
    assert what in found[0]["tied"]
    what = "rank 1: this rank has (3,) in torch.float32 of w, and its placement says (4,)"
    assert what in found[0]["replaced"]
    assert "rank 1: v: its memory has been freed" in found[0]["freed"]
    assert found[0]["files"] == []
    assert (tmp_path / "a_1.dcp" / ".metadata").exists()


def test_a_later_save_uses_the_plan_again_and_sends_at_most_512_bytes(tmp_path):
    found = ranks.run(2, f"{_WORK}:save_again", directory=str(tmp_path))

    for each in found:
        first, second, third, longer, outgrown, more, dropped = each["one"]
        assert first[0] == second[0] == third[0] == longer[0]
        assert len({one[0] for one in each["other"]}) == 1
        assert len({one[0] for one in (longer, outgrown, more, dropped)}) == 4
        later = [second, third, longer, *each["other"][1:]]
        assert max(one[1] for one in later) <= 512
        assert first[2] == second[2] == third[2] == longer[2]
        assert all(one[3] for states in each.values() for one in states)


def test_a_shard_written_from_an_image_is_that_of_the_live_tensors(tmp_path):
    alone, plans = Ranks.alone(), SavePlans()
    columns = torch.arange(700_000.0).reshape(700, 1000).t()
    state = {"w": columns, "half": torch.ones(3, dtype=torch.bfloat16), "empty": torch.empty(0, 2), "n": [1]}
    live, copied = tmp_path / "live_1.dcp", tmp_path / "copied_1.dcp"
    report = save_sharded(state, live, alone, plans, manifest())

    prepared = prepare(state, copied, alone, plans, manifest())
    shard = prepared.plan.shard
    image = memoryview(mmap.mmap(-1, shard.size_bytes + BLOCK_BYTES))
    for tensor, place in zip(prepared.tensors, shard.places, strict=False):
        copy = plain(tensor)
        image[place.data_start : place.data_start + place.data_bytes] = memory(copy.data_ptr(), copy.nbytes)
    for tensor in state.values():
        if isinstance(tensor, torch.Tensor):
            tensor.zero_()  # as the next step may, while the image is written
    write(prepared, alone, Image(image))

    assert (live / ".metadata").read_bytes() == (copied / ".metadata").read_bytes()
    one, other = ((folder / "__0_0.distcp").read_bytes() for folder in (live, copied))
    end = shard.places[-1].start + shard.places[-1].size_bytes  # then the record with the id of the save
    assert one[:end] == other[:end]
    assert len(one) == len(other) == shard.size_bytes
    assert marlin_ckpt.verify(copied).status is marlin_ckpt.Status.INTACT
    assert report.size_bytes == shard.size_bytes + len((live / ".metadata").read_bytes())


def test_a_state_whose_save_failed_is_freed_at_once_and_its_plan_is_forgotten(tmp_path):
    alone, plans = Ranks.alone(), SavePlans()
    path = tmp_path / "a_1.dcp"
    save_sharded({"w": torch.ones(3)}, path, alone, plans, manifest())
    gc.disable()
    try:
        for more, how in (({"f": lambda: 0}, {}), ({}, {"overwrite": False})):
            state = {"w": torch.ones(3), **more}
            alive = weakref.ref(state["w"])
            with contextlib.suppress(UnsavableStateError, StorageError):
                save_sharded(state, path, alone, plans, manifest(), **how)
                raise AssertionError(more)
            del state
            assert alive() is None, more
    finally:
        gc.enable()
    assert plans._plans == {}


@settings(max_examples=15, deadline=None)
@given(chance=st.randoms(use_true_random=False))
@pytest.mark.filterwarnings("ignore")
def test_what_a_kept_plan_saves_is_what_a_fresh_one_does_whatever_has_changed_since_the_last_save(chance):
    states, kept = States(chance), SavePlans()
    state = {"state": states.tree(), "more": states.tree(), "weight": torch.ones(3), "number": 0}
    for number in range(5):
        assert _planned(kept, state) == _planned(SavePlans(), state)
        state["number"] = number
        if number:
            states.change(state)
    for state["weight"] in (torch.ones(3).double(), torch.ones(4), torch.ones(4, 1), torch.ones(1, 4)):
        assert _planned(kept, state) == _planned(SavePlans(), state)


def _planned(plans, state):
    try:
        flat, plan, files = plans.plan(lambda: flatten(state), Ranks.alone())
    except UnsavableStateError as error:
        return str(error)
    tensors = (plain(flat.tensors[name]) for name in plan.tensors)
    data = [bytes(memory(one.data_ptr(), one.nbytes)) for one in tensors]
    # Of a value that has become shorter the place is as long as before, and so `.metadata` differs.
    places = [(one.data_start, one.data_bytes) for one in plan.shard.places[: len(data)]]
    return plan.tensors, plan.items, data, places, plan.values, files, flat.paths, flat.ties
