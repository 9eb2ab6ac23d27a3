"""Sharded checkpoints are found, ordered, kept and removed beside files, each as one."""

from __future__ import annotations

import logging
import os
import shutil

import pytest

from marlin_ckpt import (
    CheckpointDirectory,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    get_latest_file,
)
from marlin_ckpt.directory import catalog, leftovers
from marlin_ckpt.directory.search import Series
from marlin_ckpt.formats.torch import writer
from tests.support.folder_checkpoints import about
from tests.support.sharded_folders import write

STATE = {"a": [1]}


def write_shards(directory, index, **of_manifest):
    return write(directory / f"model_{index}.dcp", STATE, ranks=1, manifest=about(index, **of_manifest))


def write_file(directory, index, **of_manifest):
    path = directory / f"model_{index}.pt"
    writer.write_file(path, STATE, about(index, **of_manifest))
    return path


def test_the_greatest_index_is_the_latest_whichever_it_is(tmp_path):
    write_file(tmp_path, 3)
    shards = write_shards(tmp_path, 4)
    assert get_latest_file(tmp_path, "model") == str(shards)
    file = write_file(tmp_path, 5)
    assert get_latest_file(tmp_path, "model") == str(file)
    assert [one.index for one in CheckpointDirectory(tmp_path)] == [3, 4, 5]
    assert CheckpointDirectory(tmp_path).latest().path == str(file)


@pytest.mark.parametrize("later", ["file", "shards"])
def test_of_one_index_the_later_save_counts_whatever_the_times_of_the_files(tmp_path, later):
    paths = {
        "file": write_file(tmp_path, 4, save_number=7 if later == "file" else 2),
        "shards": write_shards(tmp_path, 4, save_number=7 if later == "shards" else 2),
    }
    os.utime(paths[later], (1, 1))
    assert get_latest_file(tmp_path, "model") == str(paths[later])
    assert next(iter(Series(str(tmp_path), "model", "pt").newest_first())).path == str(paths[later])
    assert CheckpointDirectory(tmp_path).latest().path == str(paths[later])


def test_of_one_index_of_two_runs_the_one_changed_last_counts(tmp_path):
    write_shards(tmp_path, 4, save_number=7, run_id="another")
    file = write_file(tmp_path, 4, save_number=2)
    os.utime(tmp_path / "model_4.dcp", (1, 1))
    assert get_latest_file(tmp_path, "model") == str(file)


def test_a_damaged_one_of_the_index_does_not_end_the_search(tmp_path):
    shards = write_shards(tmp_path, 4)
    write_file(tmp_path, 4)
    (shards / ".marlin" / "manifest.json").write_bytes(b"{}")
    assert get_latest_file(tmp_path, "model") == str(tmp_path / "model_4.pt")


def test_the_newest_intact_one_is_taken_where_a_shard_is_damaged(tmp_path):
    write_file(tmp_path, 3)
    shards = write_shards(tmp_path, 4)
    with open(shards / "__0_0.distcp", "r+b") as file:
        file.seek(300)
        file.write(b"\xff\xff\xff")
    assert CheckpointDirectory(tmp_path).latest().index == 3


def test_no_file_in_it_is_a_checkpoint_of_the_directory(tmp_path):
    write_shards(tmp_path, 4)
    found = catalog.find(tmp_path, recursive=True)
    assert [one.item.name for one in found] == ["model_4.dcp"]
    assert catalog.find(tmp_path, prefix="other", recursive=True) == []


def test_rules_count_both_kinds_together(tmp_path):
    for index in range(2):
        write_file(tmp_path, index, save_number=index + 1)
    for index in range(2, 5):
        write_shards(tmp_path, index, save_number=index + 1)
    CheckpointDirectory(tmp_path, keep=2).prune()
    assert [one.item.name for one in catalog.find(tmp_path)] == ["model_3.dcp", "model_4.dcp"]


def test_old_checkpoints_of_both_kinds_are_deleted_at_the_start(tmp_path):
    write_file(tmp_path, 1)
    write_shards(tmp_path, 2)
    (tmp_path / "notes.txt").touch()
    DefaultCheckpointer(
        DefaultCheckpointerArguments(save_dir=tmp_path, load_dir=tmp_path, delete_existing_checkpoints=True)
    )
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == ["notes.txt"]


def test_a_temporary_folder_of_a_dead_run_is_swept(tmp_path):
    shards = write_shards(tmp_path, 2)
    left = tmp_path / ".model_3.dcp.host.999999999.0123abcd.marlin-tmp"
    shutil.copytree(shards, left)
    assert [one.index for one in CheckpointDirectory(tmp_path)] == [2]
    leftovers.sweep(str(tmp_path), logging.getLogger())
    assert os.listdir(tmp_path) == ["model_2.dcp"]
