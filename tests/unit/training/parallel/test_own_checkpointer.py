"""Checkpointers of a user's own, under FSDP2."""

from __future__ import annotations

from tests.support import ranks


def test_one_that_saves_at_rank_0_alone_is_refused_and_one_whose_ranks_save_together_resumes(tmp_path):
    for found in ranks.run(2, "tests.support.own_checkpointers:train", directory=str(tmp_path)):
        what = "Alone saves at rank 0 alone, which has a part of each tensor"
        assert found["alone"] == ["TrainingError", what]
        assert found["files"] == ["again", "straight"]
        assert (found["straight"][0], found["again"][0]) == (-1, 0)
        assert found["straight"][1] == found["again"][1]
