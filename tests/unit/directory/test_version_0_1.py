"""A directory that version 0.1 left: its checkpoints, model file, notes, lease, trash and temporary file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments, get_latest_file
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import lease, notes

WRITTEN = Path(__file__).parents[2] / "fixtures" / "version_0_1" / "run"
NEWEST_CHANGED_NS = 1795714521270632746  # as its README says
LEFT = ".model_4.pt.host-of-0-1.4242.0badcafe.marlin-tmp"


@pytest.fixture
def run(tmp_path):
    """A copy of the directory, its newest checkpoint as old as it was."""
    copy = tmp_path / "run"
    shutil.copytree(WRITTEN, copy)
    os.utime(copy / "model_3.pt", ns=(NEWEST_CHANGED_NS, NEWEST_CHANGED_NS))
    return copy


def document(capsys, *words: str) -> dict:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def names(files: list[dict]) -> list[str]:
    return [os.path.basename(one["path"]) for one in files]


def test_its_files_are_listed_with_all_that_their_manifests_hold(run, capsys):
    listed = document(capsys, "list", str(run))["checkpoints"]
    assert names(listed) == ["model_2.pt", "model_3.pt", "model_model_3.pt"]
    assert [one["complete"] for one in listed] == [True] * 3
    assert {one["run_id"] for one in listed} == {"bbd14a09f89f"}
    assert [one["save_number"] for one in listed] == [3, 4, 5]
    assert listed[1]["metrics"] == {"val_loss": 0.25}
    assert get_latest_file(run, "model") == str(run / "model_3.pt")


def test_its_files_are_intact(run, capsys):
    found = document(capsys, "verify", str(run))["files"]
    assert {name: one["status"] for name, one in zip(names(found), found, strict=True)} == {
        "model_2.pt": "intact",
        "model_3.pt": "intact",
        "model_model_3.pt": "intact",
    }


def test_its_newest_checkpoint_is_loaded_and_the_run_goes_on_under_its_id(run):
    checkpointer = DefaultCheckpointer(DefaultCheckpointerArguments(load_dir=run, save_dir=run))
    loaded = checkpointer.load()
    expected = torch.arange(6.0).reshape(2, 3) + 3
    assert torch.equal(loaded.module_interface_state["weight"], expected)
    assert loaded.metrics == {"val_loss": 0.25}
    assert checkpointer.run_id == "bbd14a09f89f"


def test_its_notes_and_its_dead_holder_are_read(run, caplog):
    assert notes.save_seconds(str(run)) == 0.002
    assert notes.failed_starts(str(run)) == {str(run / "model_3.pt"): 3}
    caplog.set_level("INFO")
    with lease.held(str(run)):
        assert "run bbd14a09f89f, process 4242 on host-of-0-1" in caplog.text


def test_what_it_moved_to_the_trash_comes_back(run, capsys):
    assert names(document(capsys, "clean", str(run), "--undo")["returned"]) == ["model_0.pt", "model_1.pt"]
    assert {"model_0.pt", "model_1.pt"} <= set(os.listdir(run))
    assert not (run / ".trash").exists()


def test_its_files_are_removed_by_rules_and_its_trash_is_emptied(run, capsys):
    rules = document(capsys, "clean", str(run), "--keep-last", "1", "--yes")
    assert names(rules["removed"]) == [LEFT, "model_2.pt"]
    emptied = document(capsys, "clean", str(run), "--empty-trash", "--yes")
    assert names(emptied["removed"]) == ["model_0.pt", "model_1.pt"]
    assert sorted(os.listdir(run)) == [".marlin-ckpt", "model_3.pt", "model_model_3.pt"]


def test_what_its_killed_run_left_half_written_is_swept_by_the_next_save(run, make_checkpoint, caplog):
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=run)).save(make_checkpoint(1.0), 5)
    assert f"Removed {run / LEFT}, left half written" in caplog.text
    assert LEFT not in os.listdir(run)
