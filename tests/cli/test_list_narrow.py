"""`list` on a terminal that has no room for all metrics."""

from __future__ import annotations

from marlin_ckpt import CheckpointDirectory
from tests.support.terminal import text_of


def test_a_loss_stays_where_there_is_no_room_for_the_learning_rate(on_terminal, tmp_path):
    with CheckpointDirectory(tmp_path / "runs") as directory:
        for index in range(2):
            metrics = {"learning_rate": 0.00123, "loss": 1 / (index + 3)}
            directory.save({"step": index}, index, metrics=metrics)
    _, shown = on_terminal("list", str(tmp_path / "runs"), columns=44)
    header, *_, hint, _totals = text_of(shown).splitlines()
    assert ("loss" in header, "learning_rate" in hint) == (True, True)
