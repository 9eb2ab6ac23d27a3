"""The trash: what was moved comes back bit for bit, and nothing in it is found before it does."""

from __future__ import annotations

import os
import shutil

import pytest

from marlin_ckpt import CheckpointNotFoundError, StorageError, get_latest_file
from marlin_ckpt.directory import catalog, removing, trash


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "d"
    (directory / "sub").mkdir(parents=True)
    for name in ("model_1.pt", "model_2.pt", "sub/model_3.pt"):
        (directory / name).write_bytes(name.encode())
    return directory


def tree(directory) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def throw_away(directory, **options) -> removing.Outcome:
    plan = removing.plan_cleaning(directory, **{"recursive": True, **options})
    return trash.fill(plan)


def test_what_was_moved_comes_back_as_it_was(directory):
    before = tree(directory)
    inodes = {name: os.stat(directory / name).st_ino for name in before}
    assert len(throw_away(directory).removed) == 3
    assert set(tree(directory)) == {f".trash/000001/{name}" for name in before}
    done = trash.bring_back(directory)
    assert [os.path.relpath(one.path, directory) for one in done.removed] == [
        "model_1.pt",
        "model_2.pt",
        "sub/model_3.pt",
    ]
    assert done.failures == ()
    assert tree(directory) == before
    assert {name: os.stat(directory / name).st_ino for name in before} == inodes
    assert not (directory / ".trash").exists()


def test_nothing_in_the_trash_is_found(directory):
    throw_away(directory)
    assert get_latest_file(directory, "model") == ""
    assert catalog.find(directory, recursive=True) == []
    assert removing.plan_cleaning(directory, recursive=True).removals == ()


def test_the_last_removal_comes_back_first_and_then_the_one_before(directory):
    before = tree(directory)
    throw_away(directory, prefix="model", recursive=False)
    throw_away(directory)
    trash.bring_back(directory)
    assert set(tree(directory)) == {"sub/model_3.pt", ".trash/000001/model_1.pt", ".trash/000001/model_2.pt"}
    trash.bring_back(directory)
    assert tree(directory) == before
    with pytest.raises(CheckpointNotFoundError, match="nothing in the trash"):
        trash.bring_back(directory)


def test_what_stands_in_its_place_stays_and_the_trash_keeps_the_other(directory):
    throw_away(directory)
    (directory / "model_1.pt").write_bytes(b"new")
    done = trash.bring_back(directory)
    assert [os.path.basename(one.path) for one in done.failures] == ["model_1.pt"]
    assert len(done.removed) == 2
    assert (directory / "model_1.pt").read_bytes() == b"new"
    assert (directory / ".trash/000001/model_1.pt").read_bytes() == b"model_1.pt"
    (directory / "model_1.pt").unlink()
    assert len(trash.bring_back(directory).removed) == 1
    assert (directory / "model_1.pt").read_bytes() == b"model_1.pt"


def test_a_folder_that_has_gone_is_made_again(directory):
    before = tree(directory)
    throw_away(directory)
    shutil.rmtree(directory / "sub")
    trash.bring_back(directory)
    assert tree(directory) == before


def test_a_dry_run_brings_nothing_back(directory):
    throw_away(directory)
    before = tree(directory)
    assert len(trash.bring_back(directory, dry_run=True).removed) == 3
    assert tree(directory) == before


def test_without_hard_links_it_comes_back_all_the_same_and_over_nothing(directory, monkeypatch):
    before = tree(directory)
    throw_away(directory)

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (directory / "model_2.pt").write_bytes(b"new")
    done = trash.bring_back(directory)
    assert [os.path.basename(one.path) for one in done.failures] == ["model_2.pt"]
    assert (directory / "model_2.pt").read_bytes() == b"new"
    (directory / "model_2.pt").unlink()
    trash.bring_back(directory)
    assert tree(directory) == before


def test_an_interrupted_return_is_taken_up_by_the_next_one(directory, monkeypatch):
    before = tree(directory)
    throw_away(directory)
    real = os.unlink

    def fail(*args, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "unlink", fail)
    assert len(trash.bring_back(directory).failures) == 3
    monkeypatch.setattr(os, "unlink", real)
    assert len(trash.bring_back(directory).removed) == 3
    assert tree(directory) == before


def test_a_trash_that_is_a_link_is_never_followed(directory, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (directory / ".trash").symlink_to(tmp_path / "elsewhere")
    done = throw_away(directory)
    assert done.removed == ()
    assert len(done.failures) == 3
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (tmp_path / "elsewhere" / "000001").mkdir()
    (tmp_path / "elsewhere" / "000001" / "model_9.pt").write_bytes(b"x")
    with pytest.raises(StorageError):
        trash.bring_back(directory)
    with pytest.raises(StorageError):
        trash.plan_emptying(directory)
    assert (tmp_path / "elsewhere" / "000001" / "model_9.pt").exists()


def test_emptying_removes_what_is_in_it_and_the_folders(directory):
    throw_away(directory)
    plan = trash.plan_emptying(directory)
    assert len(removing.carry_out(plan).removed) == 3
    trash.remove_folders(directory)
    assert sorted(os.listdir(directory)) == ["sub"]
    assert trash.plan_emptying(directory).removals == ()


def test_a_removal_that_could_move_nothing_is_not_the_last_one(directory, monkeypatch):
    before = tree(directory)
    throw_away(directory, recursive=False)

    def fail(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", fail)
        assert len(throw_away(directory).failures) == 1
    assert os.listdir(directory / ".trash") == ["000001"]
    (directory / ".trash" / "000002").mkdir()  # as a kill leaves it
    assert len(trash.bring_back(directory).removed) == 2
    assert tree(directory) == before
