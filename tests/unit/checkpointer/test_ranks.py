"""Checkpointers of many ranks: what all save together is what they load, at once and behind training."""

from __future__ import annotations

import pytest

from marlin_ckpt import inspect, read_statistics
from tests.support import ranks
from tests.support.computed import computed

_WORK = "tests.support.checkpointing_ranks"


def test_what_ranks_save_in_each_form_is_what_was_there_at_the_call_bit_for_bit(tmp_path):
    for found in ranks.run(2, f"{_WORK}:save_and_load", directory=str(tmp_path)):
        for name, one in found.items():
            extension = "pt" if name.startswith("file") else "dcp"
            files = [f"model_{index}.{extension}" for index in (1, 2, 3)]
            assert one.pop("paths") == files
            assert one.pop("listed") == [*files, "model_model_3.pt"]
            assert one == {
                "model": True, "optimizer": True, "steps": 3, "own": True, "rng": True, "model file": True,
                "reports": [[1, True], [2, True], [3, True]], "metrics": {"loss": 0.5},
            }, name  # fmt: skip
    names = [f"{number}.{name}" for number in range(3) for name in ("weight", "bias")]
    for name in ("sync/model_3.dcp", "file/model_3.pt"):
        manifest = inspect(tmp_path / name).manifest
        assert manifest is not None
        assert [*manifest.optimizers.values()] == [[names]]
    kept = read_statistics(tmp_path / "async" / "model_3.dcp") or {}
    for name, one in computed(tmp_path / "async" / "model_3.dcp").items():
        assert tuple(kept[name]) == pytest.approx(tuple(one), rel=1e-6), name
    assert read_statistics(tmp_path / "sync" / "model_3.dcp") is None


def test_ranks_save_one_whole_file_to_an_object_store_and_each_loads_its_part_of_it(s3: str):
    found = ranks.run(2, f"{_WORK}:save_in_store", url=s3)
    assert found == [[f"{s3}/model_1.pt", True, True]] * 2


def test_a_name_of_a_folder_has_all_ranks_save_anything_together(tmp_path):
    found = ranks.run(2, f"{_WORK}:save_anything", directory=str(tmp_path))
    assert found == [[True] * 6] * 2


def test_a_file_of_dtensors_is_saved_by_all_ranks_and_any_other_by_each_for_itself(tmp_path):
    found = ranks.run(2, f"{_WORK}:save_files", directory=str(tmp_path))

    for rank, one in enumerate(found):
        assert one["size"]
        for name in ("now", "saver", "behind"):
            assert one[f"{name} whole"] == [True, True, 0]
            assert one[f"{name} by one"] == [True, {"by": 1}]
        for name in ("saver", "behind"):
            assert one[f"{name} listed"] == ["all.dcp", "all.pt", "one.pt", "same.pt"]
            told = ["one.pt", "same.pt"] if rank else ["all.pt", "all.dcp", "same.pt"]
            assert one[f"{name} told"] == told
            assert one[f"{name} run"] == found[0][f"{name} run"]


def test_what_is_wrong_at_one_rank_is_raised_at_all_which_then_go_on(tmp_path):
    first, second = ranks.run(2, f"{_WORK}:refuse", directory=str(tmp_path))

    assert second == [
        "ArgumentsError: index: expected an integer of 0 or more, not -1",
        f"StorageError: rank 0: a directory has the name: {tmp_path}",
        "RankError: the ranks do not save the same: here it is a_1.dcp",
        "done",
        "StorageError: rank 0: a file of this name exists: a.pt",
        "done",
        "RankError: this rank loads b.dcp, and rank 0 a.dcp",
        "ArgumentsError: into: expected a module, an optimizer or a dict of such, not a int",
        "done",
        "UnsavableStateError: the state at w: this process has only a part of the ShardedTensor",
        "UnsavableStateError: rank 0: this process has only a part of the ShardedTensor w",
        "UnsavableStateError: the state at held.w: this process has only a part of the DTensor",
    ]
    assert first == [
        "ArgumentsError: rank 1: index: expected an integer of 0 or more, not -1",
        f"StorageError: a directory has the name: {tmp_path}",
        "RankError: the ranks do not save the same: here it is a_0.dcp",
        "done",
        "StorageError: a file of this name exists: a.pt",
        "done",
        "RankError: rank 1: this rank loads b.dcp, and rank 0 a.dcp",
        "ArgumentsError: rank 1: into: expected a module, an optimizer or a dict of such, not a int",
        "done",
        "UnsavableStateError: the state at w: this process has only a part of the ShardedTensor",
        "UnsavableStateError: this process has only a part of the ShardedTensor w",
        "UnsavableStateError: the state at held.w: this process has only a part of the DTensor",
    ]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.pt", "b.dcp"]


def test_all_ranks_load_the_same_of_a_directory_into_which_they_save_together_or_rank_0_alone(tmp_path):
    found = ranks.run(2, f"{_WORK}:in_a_directory", directory=str(tmp_path))

    for layout in ("auto", "file", "sharded"):
        assert len({run for one in found for run in one[layout].pop("run")}) == 1
    for rank, one in enumerate(found):
        for layout in ("auto", "file", "sharded"):
            extension = "pt" if layout == "file" else "dcp"
            assert one[layout] == {
                "listed": [".marlin-ckpt", f"model_2.{extension}", f"model_3.{extension}"],
                "told": [] if rank else [1, 2, 3],
                "loaded": 3, "model": True, "optimizer": True, "others": [2, 2],
            }  # fmt: skip
        assert one["plain"] == [1, 1000.0]
        said = "" if rank else "rank 1: "
        assert one["errors"] == [
            "no checkpoint of index 7: plain", "no checkpoint of prefix other: plain",
            f"{said}this rank loads model 1 of plain, and rank 0 model 0 of plain",
            f"{said}this rank loads model latest of plain-1, and rank 0 model latest of plain-0",
            f"{said}this rank loads the newest model of plain-1, and rank 0 the newest model of plain-0",
        ]  # fmt: skip
