"""Sharded checkpoints of which each rank shares what has not changed are what they would be anyway."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from marlin_ckpt import Status, load, read_statistics, verify
from marlin_ckpt.formats import digests
from marlin_ckpt.formats.zip.directory import read_directory
from marlin_ckpt.storage.paths import open_source
from tests.support import ranks
from tests.support.shared_saves import in_place, origins
from tests.support.sharing_ranks import CHANGES, WAYS

_WORK = "tests.support.sharing_ranks"
_RANKS = 2


@pytest.fixture
def place(directory: str) -> Path:
    return Path(directory)


def items_of(path) -> bytes:
    """A shard up to what says when and by whom it was written."""
    with open_source(os.fspath(path)) as source:
        (own,) = (one for one in read_directory(source).records if one.label == digests.NAME)
        return source.read(0, own.header_offset)


def shards_of(folder) -> list[str]:
    return [os.path.join(folder, f"__{rank}_0.distcp") for rank in range(_RANKS)]


def test_each_rank_shares_its_own_and_the_folder_is_what_it_would_be_if_none_did(place, cases):
    ways = [*WAYS][: cases(1, len(WAYS))]
    found = ranks.run(_RANKS, f"{_WORK}:share_all", directory=str(place), ways=ways)

    for name in ways:
        for rank, one in enumerate(each[name] for each in found):
            assert one["shared"]
            assert one["loads"] == [True] * 2
            own = f"by rank.{rank}"
            assert [each[own] for each in one["origins"]] == [2, 1]
            assert [each["frozen"] for each in one["origins"]] == [2, 1]
            assert [each["trained"] for each in one["origins"]] == [4, 5]
            assert [each["turns"] for each in one["origins"]] == [4, 5]
        for index in (3, 4):
            folder, other = (place / one / f"model_{index}.dcp" for one in (name, "written"))
            assert (folder / ".metadata").read_bytes() == (other / ".metadata").read_bytes()
            for shard, written in zip(shards_of(folder), shards_of(other), strict=True):
                assert items_of(shard) == items_of(written)
                assert in_place(shard) == {*origins(shard)} != set()
            assert verify(folder).status is Status.INTACT
            alone = load(folder)  # by one process, of what two saved
            dcp_to_torch_save(folder, place / "whole.pt")
            stock = torch.load(place / "whole.pt", weights_only=False)
            for key in ("frozen", "turns", "trained", "alike", "small"):
                assert torch.equal(alone[key], stock[key])
    kept, other = (read_statistics(place / one / "model_4.dcp") for one in ("behind", "written"))
    for name, one in kept.items():
        assert tuple(one) == pytest.approx(tuple(other[name]))


def test_a_saver_and_a_checkpointer_share_and_where_files_cannot_nothing_is_laid_out_otherwise(place):
    for rank, found in enumerate(ranks.run(_RANKS, f"{_WORK}:save_in_each_way", directory=str(place))):
        own = f"by rank.{rank}"
        assert found["saver"]["frozen"] == found["saver"][own] == 1
        assert found["saver"]["trained"] == 3
        prefix = "module_interface_state."
        assert found["checkpointer"][f"{prefix}frozen"] == found["checkpointer"][f"{prefix}{own}"] == 1
        assert found["unable"] == found["without"]


def test_a_shard_that_somebody_changes_is_not_shared_with_and_where_one_has_rotted_it_is_found(place, cases):
    count = cases(3, len(CHANGES))
    all_found = ranks.run(_RANKS, f"{_WORK}:meddle_all", directory=str(place), count=count)
    for rank, found in enumerate(all_found):
        assert len(found) == count
        for name, (origin, was_met, loads) in found.items():
            assert was_met
            is_rotten = "rotten" in name
            assert loads is not is_rotten, name
            assert origin == (3 if (rank and not is_rotten) or "gone" in name else 1), name
    for folder in place.glob("*/model_2.dcp"):
        found = verify(folder)
        if "rotten" in str(folder):
            assert found.status is Status.CORRUPT
            assert found.tensors == ("turns",)
        else:
            assert found.status is Status.INTACT
            wanted = load(folder)["frozen"].double().norm().item()
            assert read_statistics(folder)["frozen"].norm == pytest.approx(wanted)


def test_what_a_system_refuses_to_share_is_written_and_a_full_disk_fails_the_save_at_all_ranks(place):
    found = ranks.run(_RANKS, f"{_WORK}:refuse_all", directory=str(place))

    for one in found:
        assert one["EIO"] == [0, ["model_0.dcp", "model_1.dcp", "model_2.dcp"], [True] * 3]
        assert one["ENOSPC"] == [errno.ENOSPC, ["model_0.dcp", "model_1.dcp"], [True] * 3]
        assert one["changes meanwhile"]
    for folder in place.glob("*/*.dcp"):
        assert verify(folder).status is Status.INTACT
