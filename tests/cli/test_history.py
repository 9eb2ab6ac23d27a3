"""What commands write into the history of a directory."""

from __future__ import annotations

from typing import Any

import pytest

from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory.history import reading
from tests.support.checkpoint_directories import state, truncate

CONFIG = """
module: {name: spiral, points: 20}
trainer: {epochs: 3, train_batch_size: 10, device: cpu, seed: 1}
checkpointer: {save_dir: saved, model_state_save_dir: null}
"""


def events(directory, kind: str) -> list[Any]:
    return [one for one in reading.read(str(directory)).events if one.kind == kind]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_clean_and_its_undo_are_in_the_history_that_there_is(here):
    directory = CheckpointDirectory(here / "runs")
    for index in range(3):
        directory.save(state(index), index)
    assert main(["clean", "runs", "--keep-last", "2", "--yes"]) == 0
    assert main(["clean", "runs", "--keep-last", "1", "--to-trash", "--yes"]) == 0
    assert main(["clean", "runs", "--undo"]) == 0
    removed = [(one.name, one.index, one.by, bool(one.reason)) for one in events("runs", "removed")]
    assert removed == [
        ("model_0.pt", 0, "clean", True),
        ("model_1.pt", 1, "clean --to-trash", True),
    ]
    (back,) = events("runs", "brought back")
    assert (back.name, back.index, back.size_bytes > 0) == ("model_1.pt", 1, True)
    assert main(["clean", "runs", "--keep-last", "1", "--dry-run"]) == 0
    assert len(events("runs", "removed")) == 2


def test_clean_begins_no_history(here):
    (here / "runs").mkdir()
    (here / "runs" / "a_1.pt").write_bytes(b"")
    assert main(["clean", "runs", "--yes"]) == 0
    assert [one.name for one in (here / "runs").iterdir()] == []


def test_train_has_the_module_in_the_digest_and_says_what_a_resume_passed_over(here):
    (here / "c.yaml").write_text(CONFIG)
    assert main(["train", "--config", "c.yaml", "--quiet"]) == 0
    truncate(here / "saved" / "model_2.pt")
    assert main(["train", "--config", "c.yaml", "--quiet", "--resume"]) == 0
    first, again = events("saved", "started")
    assert first.config_sha256 == again.config_sha256
    (resumed,) = events("saved", "resumed")
    assert resumed.name == "model_1.pt"
    assert list(resumed.passed_over) == ["model_2.pt"]
    assert "corrupt" in resumed.passed_over["model_2.pt"] or "incomplete" in resumed.passed_over["model_2.pt"]
    options = ["--set", "module.points=25", "--overwrite"]
    assert main(["train", "--config", "c.yaml", "--quiet", *options]) == 0
    assert events("saved", "started")[-1].config_sha256 != first.config_sha256
    assert {one.by for one in events("saved", "removed")} == {"overwrite"}
