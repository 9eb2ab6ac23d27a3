"""One run at a time saves into a directory; a dead one's lease is free."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from marlin_ckpt import DirectoryInUseError, StorageError
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import lease
from marlin_ckpt.directory.own import OWN_DIRECTORY

_HOLDS = """
import sys, time
from marlin_ckpt.directory import lease
with lease.held(sys.argv[1], "abc"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(directory) -> subprocess.Popen:
    """Another process that holds the lease until its standard input ends."""
    command = [sys.executable, "-c", _HOLDS, str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_with_the_name_of_the_first_and_a_third_may_after_its_end(tmp_path, cases):
    for trial in range(cases(3, 100)):
        with holder(tmp_path) as first:
            with pytest.raises(DirectoryInUseError) as caught, lease.held(str(tmp_path)):
                pytest.fail("two runs hold it")
            assert caught.value.holder["pid"] == first.pid
            assert caught.value.exit_code == 5
            assert f"run abc, process {first.pid} on" in str(caught.value)
            if trial % 2:
                first.kill()
                assert first.wait() == -signal.SIGKILL
            else:
                first.stdin.close()
                assert first.wait() == 0
        with lease.held(str(tmp_path)):
            assert json.loads((tmp_path / OWN_DIRECTORY / "lease.json").read_text())["pid"] == os.getpid()
        assert not (tmp_path / OWN_DIRECTORY / "lease.json").exists()


def test_a_dead_holders_lease_is_taken_over_with_a_word(tmp_path, caplog):
    with holder(tmp_path) as first:
        first.kill()
    caplog.set_level("INFO")
    with lease.held(str(tmp_path)):
        assert "Took over the lease of" in caplog.text
        assert f"process {first.pid}" in caplog.text


def test_within_one_process_it_may_be_held_twice(tmp_path):
    with lease.held(str(tmp_path)):
        with lease.held(str(tmp_path)):
            pass
        command = [sys.executable, "-c", _HOLDS, str(tmp_path)]
        second = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert "DirectoryInUseError" in second.stderr


def _wait(connection):
    connection.recv()


def test_a_child_that_outlives_a_killed_holder_does_not_keep_it(tmp_path):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with lease.held(str(tmp_path)):
        child = context.Process(target=_wait, args=(theirs,))
        child.start()
    try:
        with holder(tmp_path) as other:
            other.stdin.close()
    finally:
        ours.send(None)
        child.join()


def test_a_file_system_without_locks_is_announced_and_used(tmp_path, caplog, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with lease.held(str(tmp_path)):
        assert "nothing keeps two runs from it" in caplog.text


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"), lease.held(str(tmp_path / "file")):
        pytest.fail("there is no such directory")


def test_the_run_that_holds_it_is_named_as_soon_as_it_is_known(tmp_path):
    with lease.held(str(tmp_path)), lease.held(str(tmp_path), "abc"):
        assert json.loads((tmp_path / OWN_DIRECTORY / "lease.json").read_text())["run_id"] == "abc"


def test_a_second_train_exits_5_and_changes_nothing(tmp_path, capsys, repository, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("saved").mkdir()
    Path("saved/model_0.pt").write_text("an earlier run's")
    options = [
        "--set",
        "checkpointer.save_dir=saved",
        "--set",
        "checkpointer.delete_existing_checkpoints=true",
    ]
    with holder("saved") as first:
        code = main(["train", "--config", str(repository / "configs/ci.yaml"), *options])
        err = capsys.readouterr().err
        first.stdin.close()
    assert code == 5
    assert f"process {first.pid}" in err
    assert "hint: stop it, or choose another checkpointer.save_dir" in err
    assert Path("saved/model_0.pt").read_text() == "an earlier run's"
