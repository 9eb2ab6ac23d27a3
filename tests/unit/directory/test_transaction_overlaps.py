"""Folders that several threads and processes save and clear away at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from marlin_ckpt import StorageError
from marlin_ckpt.directory import leftovers
from marlin_ckpt.directory.transaction import Transaction
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import MANIFEST
from marlin_ckpt.storage.local import staging, temporary
from tests.support.folder_checkpoints import about, fill, read_all, save, staged

NAME = "checkpoint-500"
FILES = {"model.safetensors": b"weights" * 300, "rank/0/rng.pth": b"r", "empty": b""}


def test_of_two_that_overlap_the_one_that_ends_last_stands(tmp_path):
    with Transaction(tmp_path, NAME, manifest=about()) as outer:
        fill(outer, {"outer": b"o"})
        with Transaction(tmp_path, NAME, manifest=about()) as inner:
            fill(inner, {"inner": b"i"})
        assert set(read_all(tmp_path / NAME)) == {"inner", MANIFEST}
    assert set(read_all(tmp_path / NAME)) == {"outer", MANIFEST}
    assert os.listdir(tmp_path) == [NAME]


def test_threads_that_replace_one_folder_leave_one_of_theirs_whole(tmp_path):
    def run(number: int) -> None:
        for _ in range(5):
            save(tmp_path, NAME, {str(number): b"x" * number})

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert os.listdir(tmp_path) == [NAME]
    (record,) = Manifest.from_json((tmp_path / NAME / MANIFEST).read_bytes()).records
    assert set(read_all(tmp_path / NAME)) == {record["name"], MANIFEST}


def test_a_folder_that_another_keeps_locked_is_an_error_after_a_while(tmp_path, monkeypatch):
    save(tmp_path, NAME, FILES)
    monkeypatch.setattr(staging, "_LONGEST_WAIT_S", 0.0)
    fd = os.open(tmp_path, os.O_RDONLY)
    lock = temporary.open_locked(fd, NAME)
    with pytest.raises(StorageError, match="another process replaces or removes"):
        save(tmp_path, NAME, {})
    staging.release(lock)
    os.close(fd)
    assert set(read_all(tmp_path / NAME)) == {*FILES, MANIFEST}
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize("error", [None, ValueError("the child's own")])
def test_a_forked_child_neither_publishes_nor_removes_what_its_parent_fills(tmp_path, error):
    transaction = Transaction(tmp_path, NAME, manifest=about())
    with transaction as folder:
        fill(folder, FILES)
        pid = os.fork()
        if not pid:
            is_refused = False
            try:
                transaction.__exit__(type(error) if error else None, error, None)
            except StorageError:
                is_refused = True
            finally:
                os._exit(is_refused is not (error is None))
        assert os.waitpid(pid, 0)[1] == 0
        assert set(read_all(folder)) == set(FILES)
        assert os.listdir(tmp_path) == [os.path.basename(folder)]
    assert os.listdir(tmp_path) == [NAME]


def test_the_lock_is_let_go_of_though_a_forked_child_has_it_too(tmp_path):
    begun, ends = os.pipe(), os.pipe()
    with Transaction(tmp_path, NAME, manifest=about()) as folder:
        fill(folder, FILES)
        pid = os.fork()
        if not pid:
            os.write(begun[1], b".")
            os.close(ends[1])
            os.read(ends[0], 1)
            os._exit(0)
        os.read(begun[0], 1)
    save(tmp_path, NAME, {"next": b"n"})
    os.close(ends[1])
    os.waitpid(pid, 0)
    assert set(read_all(tmp_path / NAME)) == {"next", MANIFEST}


def test_an_old_folder_that_cannot_be_removed_fails_nothing_and_the_next_sweep_tries_again(
    tmp_path, monkeypatch, caplog
):
    save(tmp_path, NAME, {"old": b"old"})

    def refuse(fd, name):
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(staging.trees, "remove_folder", refuse)
        save(tmp_path, NAME, FILES)
    assert "Could not remove" in caplog.text
    assert len(staged(tmp_path)) == 1
    assert set(read_all(tmp_path / NAME)) == {*FILES, MANIFEST}
    save(tmp_path, "another", {})
    assert staged(tmp_path) == []


@pytest.mark.parametrize("is_there_again", [False, True])
def test_a_kill_between_the_two_renames_of_a_replacement_loses_no_folder(tmp_path, is_there_again):
    save(tmp_path, NAME, {"old": b"old"})
    os.rename(tmp_path / NAME, tmp_path / f".{NAME}.marlin-old")
    if is_there_again:
        save(tmp_path / "other", NAME, FILES)
        os.rename(tmp_path / "other" / NAME, tmp_path / NAME)
        os.rmdir(tmp_path / "other")
    leftovers.sweep(str(tmp_path), leftovers._logger)
    assert os.listdir(tmp_path) == [NAME]
    assert set(read_all(tmp_path / NAME)) == {*(FILES if is_there_again else ["old"]), MANIFEST}


def test_it_needs_no_torch():
    code = "import sys, marlin_ckpt.directory.transaction; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
