"""Rules in a run that would keep nothing: they wait, and remove nothing until they keep something."""

from __future__ import annotations

import pytest

from marlin_ckpt import BestArguments, RetentionArguments
from tests.support.folders import visible


@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize("metrics", [{"loss": 1.0}, {"los": float("nan")}], ids=["misspelt", "NaN"])
def test_rules_that_keep_nothing_remove_nothing(
    make_checkpointer, make_checkpoint, tmp_path, caplog, async_save, metrics
):
    keep = RetentionArguments(best=BestArguments("los", "min", 3))
    with make_checkpointer(async_save=async_save, keep=keep, load_dir=None) as checkpointer:
        for index in range(4):
            checkpointer.save(make_checkpoint(**metrics), index)
        checkpointer.wait()
        assert visible(tmp_path / "checkpoints") == [f"model_{index}.pt" for index in range(4)]
        assert caplog.text.count("no rule of keep keeps any of them") == 1
        checkpointer.save(make_checkpoint(los=2.0), 4)
        checkpointer.wait()
        assert visible(tmp_path / "checkpoints") == ["model_4.pt"]
