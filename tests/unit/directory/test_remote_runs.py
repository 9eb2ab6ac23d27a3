"""Runs in an object store: a second one is refused, and what is noted of each is found again."""

from __future__ import annotations

import json
import os
import signal

import pytest

from marlin_ckpt import (
    Checkpoint,
    CheckpointDirectory,
    CorruptCheckpointError,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    DirectoryInUseError,
    RetentionArguments,
    load,
    save,
)
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import lease, notes, own, runs
from marlin_ckpt.directory.remote import lease as remote
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3 import keys
from marlin_ckpt.storage.target import whole
from marlin_ckpt.training import preemption


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_POLL_S", 0.1)


def test_beside_a_run_a_second_one_and_a_removal_exit_5_and_change_nothing(
    s3: str, capsys, repository, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    for index in range(2):
        save({"index": index}, f"{s3}/model_{index}.pt")
    options = [f"checkpointer.save_dir={s3}", "checkpointer.delete_existing_checkpoints=true"]
    train = ["train", "--config", str(repository / "configs/ci.yaml")]
    other = remote.RemoteLock(s3, "theirs", ttl_s=4)
    for command in (
        [*train, "--set", options[0], "--set", options[1]],
        ["clean", s3, "--keep-last", "1", "--yes"],
    ):
        capsys.readouterr()
        assert main(command) == 5
        err = capsys.readouterr().err
        assert "run theirs, process" in err
        assert "if it has died, its lease ends in" in err
    assert [load(f"{s3}/model_{index}.pt")["index"] for index in range(2)] == [0, 1]
    other.drop()
    assert main(["clean", s3, "--keep-last", "1", "--yes"]) == 0
    assert not paths.exists(f"{s3}/model_0.pt")
    assert lease.holder(s3) == {}


@pytest.mark.parametrize(
    ("number", "code", "verb"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_a_start_that_waits_for_another_run_and_one_that_came_before_ends_it_too(
    s3: str, capsys, repository, monkeypatch, number, code, verb
):
    save({"index": 0}, f"{s3}/model_0.pt")
    train = ["train", "--config", str(repository / "configs/ci.yaml"), "--resume"]
    train += ["--set", f"checkpointer.save_dir={s3}"]
    other = remote.RemoteLock(s3, "theirs")
    left_s, looks = remote._left_s, []

    def looked(*args) -> float:
        looks.append(args)
        if len(looks) == 2:  # after the first pause
            os.kill(os.getpid(), number)
        return left_s(*args)

    monkeypatch.setattr(remote, "_left_s", looked)
    assert main(train) == code
    assert len(looks) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"{verb}: the run had not begun"
    with preemption.listening():
        os.kill(os.getpid(), number)
        assert main(train) == code
    assert len(looks) == 2
    other.drop()
    remote.RemoteLock(s3, "next").drop()


def test_emptying_the_directory_of_a_live_run_is_refused_and_a_runs_end_frees_it(s3: str):
    where = {"save_dir": s3, "load_dir": s3}
    first = DefaultCheckpointer(DefaultCheckpointerArguments(**where))
    with pytest.raises(KeyError), first.running():
        first.save(Checkpoint({"v": 1}), 0)
        assert lease.holder(s3)["run_id"] == first.run_id
        with pytest.raises(DirectoryInUseError):
            DefaultCheckpointer(DefaultCheckpointerArguments(**where, delete_existing_checkpoints=True))
        assert paths.exists(f"{s3}/model_0.pt")
        raise KeyError("an error of the user's")
    assert lease.holder(s3) == {}
    DefaultCheckpointer(DefaultCheckpointerArguments(**where, delete_existing_checkpoints=True))
    assert not paths.exists(f"{s3}/model_0.pt")


def test_a_start_that_fails_counts_against_its_checkpoint_until_that_is_replaced(s3: str):
    path = f"{s3}/model_0.pt"
    save({"v": 1}, path)
    for number in (1, 2):
        with pytest.raises(CorruptCheckpointError), notes.counted_start(path):
            assert notes.failed_starts(s3) == {path: number}  # should the process be killed here
            raise CorruptCheckpointError("bad", path)
        assert notes.failed_starts(s3) == {path: number}
    with pytest.raises(KeyboardInterrupt), notes.counted_start(path):
        raise KeyboardInterrupt
    assert notes.failed_starts(s3) == {}
    with pytest.raises(CorruptCheckpointError), notes.counted_start(path):
        raise CorruptCheckpointError("bad", path)
    save({"v": 1, "more": "of it"}, path)
    assert notes.failed_starts(s3) == {}


def test_notes_and_runs_are_kept_in_the_store_and_what_is_damaged_counts_as_not_there(s3: str):
    notes.note_save(s3, 1.5)
    notes.note_launch(s3, "launch", "run")
    for run_id, index in (("a", 0), ("b", 1)):
        with CheckpointDirectory(s3, run=run_id) as here:
            here.save({"v": 1}, index)
    assert (notes.save_seconds(s3), notes.run_of_launch(s3, "launch")) == (1.5, "run")
    assert runs.known_runs(s3) == ["b", "a"]
    for damage in (b"{", b"[]", b"x" * (2 << 20), json.dumps({"save_seconds": -1}).encode()):
        with paths.open_remote(s3) as store:
            name = ".marlin-ckpt/notes.json"
            store.publish(name, len(damage), whole(damage), replaces=store.head(name).identity)
        assert notes.save_seconds(s3) is None
    notes.note_save(s3, 2.5)
    assert notes.save_seconds(s3) == 2.5
    assert own.read(s3, "missing.json") == {}


def test_the_place_of_model_files_has_a_lease_of_its_own_and_what_was_left_there_is_ended(s3: str, tmp_path):
    models = f"{s3}/models"
    first, second = (
        DefaultCheckpointer(
            DefaultCheckpointerArguments(save_dir=str(tmp_path / name), model_state_save_dir=models)
        )
        for name in ("a", "b")
    )
    with paths.open_remote(models) as store:
        key = store._key("model_model_0.pt")
        keys.begin(key, {}, store._retrying, "cannot write")  # by a run that was killed
        with first.running():
            assert list(store.uploads("")) == []
            first.save(Checkpoint({"v": 1}), 0)
            first.save_model({"v": 1}, 0)
            with pytest.raises(DirectoryInUseError), second.running():
                pass
    assert load(f"{models}/model_model_0.pt") == {"v": 1}
    assert load(tmp_path / "a")["module_interface_state"] == {"v": 1}
    with second.running():
        second.save_model({"v": 2}, 0)
    assert load(f"{models}/model_model_0.pt") == {"v": 2}
    assert lease.holder(models) == {}


def test_a_run_keeps_checkpoints_and_model_files_in_two_places_of_a_store(s3: str):
    args = DefaultCheckpointerArguments(
        save_dir=f"{s3}/a",
        load_dir=f"{s3}/a",
        model_state_save_dir=f"{s3}/b",
        keep=RetentionArguments(last=1),
    )
    one = DefaultCheckpointer(args)
    with one.running():
        for index in range(2):
            one.save(Checkpoint({"v": index}), index)
            one.save_model({"v": index}, index)
        assert [bool(lease.holder(f"{s3}/{name}")) for name in "ab"] == [True, True]
    assert [lease.holder(f"{s3}/{name}") for name in "ab"] == [{}, {}]
    assert DefaultCheckpointer(args).load().module_interface_state == {"v": 1}
    assert load(f"{s3}/b/model_model_1.pt") == {"v": 1}
    with paths.open_remote(s3) as store:
        assert store.list("a").objects == ("a/model_1.pt",)
        assert store.list("b").objects == ("b/model_model_0.pt", "b/model_model_1.pt")


def test_a_run_in_a_store_keeps_its_model_files_on_a_disk_and_one_on_a_disk_goes_on_from_a_store(
    s3: str, tmp_path
):
    args = DefaultCheckpointerArguments(save_dir=s3, model_state_save_dir=str(tmp_path / "models"))
    first = DefaultCheckpointer(args)
    with first.running():
        first.save(Checkpoint({"v": 1}), 0)
        first.save_model({"v": 1}, 0)
    assert load(tmp_path / "models" / "model_model_0.pt") == {"v": 1}
    here = str(tmp_path / "here")
    second = DefaultCheckpointer(
        DefaultCheckpointerArguments(save_dir=here, model_state_save_dir=None, load_dir=s3)
    )
    with second.running():
        found = second.load()
        second.save(found, 1)
    assert load(here)["module_interface_state"] == {"v": 1}
    assert paths.existing(s3)("model_1.pt") is False
