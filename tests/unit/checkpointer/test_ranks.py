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


def test_a_name_of_a_folder_has_all_ranks_save_anything_together(tmp_path):
    found = ranks.run(2, f"{_WORK}:save_anything", directory=str(tmp_path))
    assert found == [[True] * 6] * 2
