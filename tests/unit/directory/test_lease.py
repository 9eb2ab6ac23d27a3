"""One run at a time saves into a directory; a dead one's lease is free."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from marlin_ckpt import (
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    DirectoryInUseError,
    StorageError,
)
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import lease
from marlin_ckpt.naming import OWN_DIRECTORY

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
        # It may be the very run that goes on here: it is not called another one.
        assert f"Took over the lease of {tmp_path} from run abc, process {first.pid} on" in caplog.text


def test_within_one_process_it_may_be_held_twice(tmp_path):
    with lease.held(str(tmp_path)):
        with lease.held(str(tmp_path)):
            pass
        command = [sys.executable, "-c", _HOLDS, str(tmp_path)]
        second = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert "DirectoryInUseError" in second.stderr


def test_in_one_process_a_second_run_is_refused_and_the_first_keeps_it_to_its_end(tmp_path):
    entered, leave = threading.Event(), threading.Event()

    def first():
        with lease.held(str(tmp_path), "first"):
            entered.set()
            assert leave.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(60)
    with pytest.raises(DirectoryInUseError) as error, lease.held(str(tmp_path), "second"):
        pytest.fail("two runs hold it")
    with pytest.raises(DirectoryInUseError), lease.held_where_used([str(tmp_path)]):
        pytest.fail("clean and a run hold it")
    leave.set()
    thread.join()
    assert error.value.holder["run_id"] == "first"
    with lease.held(str(tmp_path), "second"):
        pass


def test_parties_that_do_not_nest_keep_it_until_the_last_one_ends(tmp_path):
    first, second = (lease.Lease(str(tmp_path), run_id) for run_id in ("", "run"))
    with lease.held(str(tmp_path)):
        pass
    first.take()
    second.take()
    first.drop()
    with pytest.raises(DirectoryInUseError), lease.held(str(tmp_path), "another"):
        pytest.fail("two runs hold it")
    second.drop()
    with lease.held(str(tmp_path), "another"):
        pass


def vanish(directory):
    shutil.rmtree(directory)


def vanish_and_come_back(directory):
    shutil.rmtree(directory)
    directory.mkdir()


def move_away(directory):
    directory.rename(directory.with_name("moved away"))


def lose_the_lock(directory):
    (directory / OWN_DIRECTORY / "lease.lock").unlink()


@pytest.mark.parametrize("how", [vanish, vanish_and_come_back, move_away, lose_the_lock])
def test_a_run_goes_on_in_a_directory_that_was_made_anew_with_its_lease(tmp_path, how):
    own = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path / "run")))
    with own.running():
        own.save(Checkpoint({"v": 1}), 0)
        how(tmp_path / "run")
        own.save(Checkpoint({"v": 2}), 1)
        command = [sys.executable, "-c", _HOLDS, str(tmp_path / "run")]
        other = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert "DirectoryInUseError" in other.stderr
    assert (tmp_path / "run" / "model_1.pt").exists()
    with lease.held(str(tmp_path / "run"), "another"):
        pass


def test_all_that_hold_it_in_one_process_take_it_anew_where_its_lock_was_lost(tmp_path):
    trainer, checkpointer = (lease.Lease(str(tmp_path), run_id) for run_id in ("", "run"))
    trainer.take()
    checkpointer.take()
    lose_the_lock(tmp_path)
    checkpointer.follow()
    command = [sys.executable, "-c", _HOLDS, str(tmp_path)]
    other = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert "DirectoryInUseError" in other.stderr
    trainer.follow()
    checkpointer.drop()
    with (
        pytest.raises(DirectoryInUseError),
        lease.held(str(tmp_path), "another"),
        lease.held_where_used([str(tmp_path)]),
    ):
        pytest.fail("clean and a run hold it")
    trainer.drop()
    with lease.held_where_used([str(tmp_path)]):
        pass


def test_the_end_of_a_run_that_lost_its_lock_leaves_the_name_of_the_one_that_has_the_lease_now(tmp_path):
    with lease.held(str(tmp_path), "first"):
        lose_the_lock(tmp_path)
        other = holder(tmp_path)
    with other:
        with (
            pytest.raises(DirectoryInUseError, match=f"run abc, process {other.pid}"),
            lease.held(str(tmp_path)),
        ):
            pytest.fail("two runs hold it")
        other.stdin.close()


def test_a_removal_waits_for_another_one_that_has_not_said_yet_who_it_is(tmp_path, monkeypatch):
    steps = []

    def pause(_):
        if steps:  # the other removal has ended
            other.stdin.close()
            assert other.wait() == 0
        else:
            stated.write_text('{"removes": true}')
        steps.append("paused")

    stated = tmp_path / OWN_DIRECTORY / "lease.json"
    monkeypatch.setattr(lease.time, "sleep", pause)
    monkeypatch.setattr(lease, "_NOTING_S", 60)
    with holder(tmp_path) as other:
        stated.write_text('{"run_id": "a run that died before", "removes": false}')
        with lease.held_where_used([str(tmp_path)]):
            assert len(steps) == 2


@pytest.mark.parametrize("on_save_error", ["raise", "warn"])
def test_a_run_whose_directory_was_made_anew_and_taken_by_another_is_refused_at_each_save(
    tmp_path, on_save_error
):
    own = DefaultCheckpointer(
        DefaultCheckpointerArguments(save_dir=str(tmp_path / "run"), on_save_error=on_save_error)
    )
    with own.running():
        vanish_and_come_back(tmp_path / "run")
        with holder(tmp_path / "run") as other:
            for index in range(2):
                with pytest.raises(DirectoryInUseError, match="run abc"):
                    own.save(Checkpoint({"v": 2}), index)
            other.stdin.close()
        own.save(Checkpoint({"v": 3}), 2)
    assert sorted(os.listdir(tmp_path / "run")) == [OWN_DIRECTORY, "model_2.pt"]


def test_emptying_the_directory_of_a_live_run_is_refused(tmp_path):
    where = {"save_dir": str(tmp_path), "load_dir": str(tmp_path)}
    first = DefaultCheckpointer(DefaultCheckpointerArguments(**where))
    with first.running():
        first.save(Checkpoint({"v": 1}), 0)
        with pytest.raises(DirectoryInUseError):
            DefaultCheckpointer(DefaultCheckpointerArguments(**where, delete_existing_checkpoints=True))
        assert (tmp_path / "model_0.pt").exists()
    DefaultCheckpointer(DefaultCheckpointerArguments(**where, delete_existing_checkpoints=True))
    assert not (tmp_path / "model_0.pt").exists()


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
