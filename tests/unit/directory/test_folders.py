"""A folder that is one checkpoint is found, kept, removed, trashed and verified as one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest

from marlin_ckpt import RetentionArguments, StorageError, get_latest_file
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import catalog, removing, trash
from marlin_ckpt.directory.retention.plan import Keeping
from marlin_ckpt.storage.local import descent, temporary
from tests.support.memory_store import MemoryStore
from tests.support.pair_layout import registered, write_pair


@pytest.fixture(autouse=True)
def _layout():
    with registered():
        yield


@pytest.fixture
def directory(tmp_path) -> Path:
    """Three checkpoints that are folders, and below the last one a folder of the user's."""
    for index in range(3):
        write_pair(tmp_path / "d", index)
    return tmp_path / "d"


def whole_size(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in ("manifest.json", "weights.bin"))


def plan(directory, **rules):
    return Keeping().plan(directory, RetentionArguments(**rules), now_s=2e9, recursive=True)


def everything(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.mark.parametrize("recursive", [False, True])
def test_it_is_listed_once_with_its_whole_size_and_nothing_in_it_for_itself(directory, recursive):
    found = catalog.find(directory, recursive=recursive)
    assert [one.path for one in found] == [str(directory / f"model_{index}.pair") for index in range(3)]
    assert {one.size_bytes for one in found} == {whole_size(directory / "model_1.pair")}
    assert {one.layout for one in found} == {"pair"}
    assert [os.path.basename(one.name) for one in found[0].members] == ["weights.bin", "manifest.json"]
    assert catalog.find(directory, prefix="other") == []


def test_it_counts_beside_files_in_order_of_the_index(directory, make_checkpointer, make_checkpoint):
    make_checkpointer(save_dir=directory).save(make_checkpoint(1.0), 1)
    found = [os.path.basename(one.path) for one in catalog.find(directory)]
    assert found == ["model_0.pair", "model_1.pair", "model_1.pt", "model_2.pair"]
    assert get_latest_file(directory, "model") == str(directory / "model_2.pair")


def test_one_without_its_manifest_is_no_checkpoint_but_a_folder(directory):
    (directory / "model_2.pair" / "manifest.json").unlink()
    assert get_latest_file(directory, "model") == str(directory / "model_2.pair" / "model_99.pt")
    (directory / "model_2.pair" / "model_99.pt").unlink()
    assert get_latest_file(directory, "model") == str(directory / "model_1.pair")


def test_list_and_verify_tell_of_it_as_of_a_file(directory, capsys):
    (directory / "model_1.pair" / "weights.bin").write_bytes(b"damaged")
    assert main(["list", str(directory), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [one["metrics"] for one in listed] == [{"loss": 0.0}, {"loss": 1.0}, {"loss": 2.0}]
    assert main(["verify", str(directory), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)["files"]
    assert [one["status"] for one in found] == ["intact", "corrupt", "intact"]
    assert main(["verify", str(directory / "model_0.pair/"), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["files"]
    assert (one["path"], one["status"]) == (str(directory / "model_0.pair"), "intact")


def test_retention_keeps_or_removes_it_as_a_whole(directory):
    found = plan(directory, last=1)
    assert [one.keep for one in found.decisions] == [False, False, True]
    assert {one.candidate.run_id for one in found.decisions} == {"run"}
    done = removing.carry_out(found.removal)
    assert done.failures == ()
    assert done.bytes_freed == 2 * whole_size(directory / "model_2.pair")
    assert os.listdir(directory) == ["model_2.pair"]
    assert len(os.listdir(directory / "model_2.pair")) == 3


def test_clean_by_rules_makes_the_newest_durable_with_its_files_before_others_go(
    directory, monkeypatch, capsys
):
    synced = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.add(os.readlink(f"/proc/self/fd/{fd}")) or real(fd))
    assert main(["clean", str(directory), "--keep-last", "1", "--yes"]) == 0
    assert os.listdir(directory) == ["model_2.pair"]
    newest = directory / "model_2.pair"
    assert {str(directory), str(newest), *map(str, newest.iterdir())} <= synced
    assert "keep " in capsys.readouterr().out


def test_a_damaged_newest_one_takes_no_place(directory):
    (directory / "model_2.pair" / "weights.bin").write_bytes(b"damaged")
    found = plan(directory, last=1)
    assert [one.keep for one in found.decisions] == [False, True, True]
    assert found.decisions[2].reasons == ("left alone: corrupt: the weights are damaged",)


def test_what_a_link_in_the_directory_leads_to_stays(directory):
    (directory / "best").symlink_to("model_0.pair")
    found = plan(directory, last=1)
    assert [one.keep for one in found.decisions] == [True, False, True]
    assert "best links to it" in found.decisions[0].reasons


@pytest.mark.parametrize("options", [[], ["--prefix", "model"]], ids=["all", "a prefix"])
def test_clean_without_rules_removes_it_whole_and_never_a_part_of_it(directory, options, capsys):
    write_pair(directory / "sub", 7)
    write_pair(directory, 8, prefix="other")
    assert main(["clean", str(directory), "--yes", *options]) == 0
    assert sorted(os.listdir(directory)) == (["other_8.pair", "sub"] if options else ["sub"])
    assert len(os.listdir(directory / "sub" / "model_7.pair")) == 3


def test_one_that_was_replaced_after_the_decision_stays(directory):
    found = plan(directory, last=1)
    shutil.rmtree(directory / "model_0.pair")
    os.utime(write_pair(directory, 0), (1, 1))  # the number of an inode just freed is used again
    done = removing.carry_out(found.removal)
    assert [os.path.basename(one.path) for one in done.failures] == ["model_0.pair"]
    assert sorted(os.listdir(directory)) == ["model_0.pair", "model_2.pair"]


def test_it_moves_to_the_trash_and_back_as_one(directory):
    before = everything(directory)
    found = plan(directory, last=1)
    assert trash.fill(found.removal).failures == ()
    assert sorted(os.listdir(directory)) == [".trash", "model_2.pair"]
    assert [one.index for one in catalog.find(directory, recursive=True)] == [2]
    done = trash.bring_back(directory)
    assert [os.path.relpath(one.path, directory) for one in done.removed] == ["model_0.pair", "model_1.pair"]
    assert {one.size_bytes for one in done.removed} == {whole_size(directory / "model_2.pair")}
    assert everything(directory) == before
    assert not (directory / ".trash").exists()


def test_one_that_stands_in_its_place_stays_and_the_trash_keeps_the_other(directory):
    found = plan(directory, last=1)
    trash.fill(found.removal)
    write_pair(directory, 0, run_id="newer")
    done = trash.bring_back(directory)
    assert [os.path.basename(one.path) for one in done.failures] == ["model_0.pair"]
    assert b"newer" in (directory / "model_0.pair" / "manifest.json").read_bytes()
    assert (directory / ".trash/000001/model_0.pair/weights.bin").exists()


def test_the_trash_is_emptied_of_it(directory):
    found = plan(directory, last=1)
    trash.fill(found.removal)
    emptying = trash.plan_emptying(directory)
    assert [os.path.basename(one.path) for one in emptying.removals] == ["model_0.pair", "model_1.pair"]
    assert removing.carry_out(emptying).failures == ()
    trash.remove_folders(directory)
    assert os.listdir(directory) == ["model_2.pair"]


class Killed(BaseException):
    """Ends a process in the middle of what it does."""


def test_a_kill_at_any_call_leaves_it_whole_or_as_going_and_the_next_sweep_ends_that(tmp_path, monkeypatch):
    number, is_struck = 0, True
    while is_struck:
        number += 1
        directory = tmp_path / str(number)
        folder = write_pair(directory, 1)
        before = everything(directory)
        doomed = removing.plan_cleaning(directory)
        calls = 0

        def call(name, *args, real, **options):
            nonlocal calls
            calls += 1
            if calls == number:  # noqa: B023 - called within the round
                raise Killed(name)
            return real(*args, **options)

        with monkeypatch.context() as patch:
            for name in ("open", "stat", "scandir", "rename", "unlink", "rmdir", "fsync"):
                real = getattr(os, name)
                patch.setattr(
                    os,
                    name,
                    lambda *args, name=name, real=real, **options: call(name, *args, real=real, **options),
                )
            with contextlib.suppress(Killed):
                removing.carry_out(doomed)
        is_struck = calls >= number
        left = os.listdir(directory)
        if folder.exists():
            assert everything(directory) == before, number
            assert left == ["model_1.pair"]
        else:
            assert all(map(temporary.is_temporary, left)), number
            assert catalog.find(directory, recursive=True) == []
            assert removing.carry_out(removing.plan_sweeping(directory)).failures == ()
            assert os.listdir(directory) == []
    assert number > 8


def test_another_file_system_mounted_in_it_ends_its_removal(directory, monkeypatch):
    inner = directory / "model_0.pair" / "inner"
    inner.mkdir()
    (inner / "file").write_bytes(b"kept")
    os.utime(inner.parent, (1, 1))  # else it would be the one written last
    real = os.fstat
    mounted = inner.stat().st_ino

    def fstat(fd):
        status = real(fd)
        return os.stat_result((*status[:2], 1, *status[3:])) if status.st_ino == mounted else status

    monkeypatch.setattr(descent.os, "fstat", fstat)
    done = removing.carry_out(plan(directory, last=2).removal)
    assert [one.error for one in done.failures] == ["another file system is mounted in it"]
    (left,) = [name for name in os.listdir(directory) if temporary.is_temporary(name)]
    assert (directory / left / "inner" / "file").read_bytes() == b"kept"


def test_it_is_found_in_a_store_that_is_no_directory():
    store = MemoryStore("memory://run")
    for name in ("model_1.pair/manifest.json", "model_1.pair/weights.bin", "sub/model_2.pt", "model_3.pt"):
        store.publish(name, 4, lambda target: target.put(b"data"))
    found = catalog.find_in(store, recursive=True)
    assert [one.path for one in found] == [
        "memory://run/model_1.pair",
        "memory://run/sub/model_2.pt",
        "memory://run/model_3.pt",
    ]
    assert found[0].size_bytes == 8
    assert len(found[0].members) == 2


def test_a_store_that_fails_is_an_error_and_not_an_empty_answer():
    store = MemoryStore()
    store.publish("model_1.pt", 4, lambda target: target.put(b"data"))
    store.fail(0, 5)
    with pytest.raises(StorageError):
        catalog.find_in(store)
