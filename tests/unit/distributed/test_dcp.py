"""`torch.distributed.checkpoint` by MarlinWriter and MarlinReader, as its users call it."""

from __future__ import annotations

from tests.support import ranks

_WORK = "tests.support.dcp_ranks"


def test_modules_and_optimizers_of_each_kind_of_mesh_come_back_as_they_were(tmp_path):
    for found in ranks.run(4, f"{_WORK}:round_trips", directory=str(tmp_path)):
        assert len(found) == 3
        assert {way: differences for way, differences in found.items() if differences} == {}


def test_a_group_of_ranks_saves_its_own_folder_and_so_does_a_rank_without_the_others(tmp_path):
    for rank, found in enumerate(ranks.run(4, f"{_WORK}:by_groups", directory=str(tmp_path))):
        assert found == {
            "group": [True, rank // 2], "alone": rank, "both": True, "intact": [True] * 7
        }  # fmt: skip
