"""A history makes no folder of another tool ours: it stays the checkpoint that its files make it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from marlin_ckpt.directory import catalog, lease
from marlin_ckpt.directory.history.events import Saved
from marlin_ckpt.directory.history.recorder import History
from marlin_ckpt.operations.report.gathering import Wanted, gather


def hugging_face(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["A"]}))
    safetensors.torch.save_file({"a": torch.zeros(2)}, directory / "model.safetensors")
    return directory


def test_a_folder_of_weights_stays_one_where_a_trainer_keeps_a_history_beside_its_weights(tmp_path):
    folder = hugging_face(tmp_path / "out")
    before = catalog.entry(folder)
    assert before is not None
    assert before.layout
    History(str(folder)).write(Saved(name="checkpoint-5"), is_durable=True)
    (folder / ".marlin-ckpt" / "events.1.jsonl").write_bytes(b"")
    after = catalog.entry(folder)
    assert after is not None
    assert (after.layout, after.members) == (before.layout, before.members)


def test_a_model_in_the_root_of_a_trainers_output_is_found_after_a_report_kept_statistics_there(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "loose_1.pt")
    gather(str(tmp_path), Wanted(reads_tensors=True))
    assert [one.name for one in (tmp_path / ".marlin-ckpt").iterdir()] == ["statistics.json"]
    (tmp_path / "loose_1.pt").unlink()
    for one in hugging_face(tmp_path / "out").iterdir():
        one.rename(tmp_path / one.name)
    found = catalog.entry(tmp_path)
    assert found is not None
    assert found.layout


@pytest.mark.parametrize("name", ["lease.lock", "runs.json", "notes.json", "events.jsonl.txt"])
def test_what_else_is_in_our_own_folder_says_that_the_directory_is_ours(tmp_path, name):
    folder = hugging_face(tmp_path / "out")
    History(str(folder)).write(Saved(name="checkpoint-5"))
    (folder / ".marlin-ckpt" / name).write_bytes(b"")
    found = catalog.entry(folder)
    assert found is None or not found.layout


def test_a_link_in_the_place_of_our_own_folder_changes_nothing_and_is_not_followed(tmp_path):
    folder = hugging_face(tmp_path / "out")
    before = catalog.entry(folder)
    (folder / ".marlin-ckpt").symlink_to(tmp_path)
    after = catalog.entry(folder)
    assert before is not None
    assert after is not None
    assert after.layout == before.layout


def test_a_removal_leaves_no_lock_where_no_run_has_held_a_lease(tmp_path):
    folder = hugging_face(tmp_path / "out")
    History(str(folder)).write(Saved(name="checkpoint-5"))
    with lease.held_where_used([str(folder)]):
        assert [one.name for one in (folder / ".marlin-ckpt").iterdir()] == ["events.jsonl"]
