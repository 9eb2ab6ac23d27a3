"""The trash: what was moved comes back bit for bit, and nothing in it is found before it does."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat

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

    def fail(*args, **options):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        assert len(trash.bring_back(directory).failures) == 3
    assert len(trash.bring_back(directory).removed) == 3
    assert tree(directory) == before


def test_a_trash_that_is_a_link_is_never_followed(directory, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (directory / ".trash").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="refused: not a trash of ours"):
        throw_away(directory)
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


def write_own_folder(place) -> None:
    place.mkdir()
    (place / "notes.txt").write_bytes(b"of the user")


def write_own_numbers(place) -> None:
    (place / "000001").mkdir(parents=True)
    (place / "more").mkdir()


FOREIGN = {
    "a folder with a file": write_own_folder,
    "a folder with a folder": write_own_numbers,
    "a file": lambda place: place.write_bytes(b"of the user"),
    "a dangling link": lambda place: place.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("act", [throw_away, trash.bring_back, trash.plan_emptying])
def test_what_somebody_else_calls_trash_is_refused_and_nothing_is_touched(directory, make, act):
    make(directory / ".trash")
    before = sorted(str(path) for path in directory.rglob("*"))
    with pytest.raises(StorageError, match=r"not a trash of ours, .*\.trash") as raised:
        act(directory)
    assert raised.value.hint
    assert sorted(str(path) for path in directory.rglob("*")) == before


def mode_of(path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o2770])
def test_a_folder_that_is_made_in_the_trash_or_by_bringing_back_has_the_mode_of_the_one_before(
    directory, mode
):
    (directory / "sub").chmod(mode)
    directory.chmod(0o711)
    throw_away(directory)
    modes = {name: mode_of(directory / name) for name in (".trash", ".trash/000001", ".trash/000001/sub")}
    assert modes == {".trash": 0o711, ".trash/000001": 0o711, ".trash/000001/sub": mode}
    (directory / "sub").rmdir()
    trash.bring_back(directory)
    assert mode_of(directory / "sub") == mode


def test_a_folder_in_the_trash_is_open_to_nobody_before_it_has_its_mode(directory, monkeypatch):
    made, real = [], os.fchmod

    def look_first(fd, mode):
        made.append(stat.S_IMODE(os.fstat(fd).st_mode))
        real(fd, mode)

    monkeypatch.setattr(os, "fchmod", look_first)
    throw_away(directory)
    assert made == [0o700] * 3


@pytest.mark.parametrize(("mode", "expected"), [(0o770, 0o700), (0o2775, 0o755)])
def test_where_the_group_cannot_be_kept_a_folder_in_the_trash_is_open_to_others_as_before_and_to_no_more(
    directory, monkeypatch, mode, expected
):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    if os.geteuid() != 0:
        pytest.skip("only root gives folders away")
    os.chown(directory / "sub", 12345, 12345)
    (directory / "sub").chmod(mode)
    throw_away(directory)
    assert mode_of(directory / ".trash/000001/sub") == expected


def test_bringing_back_clears_folders_in_which_killed_removals_left_nothing(directory):
    (directory / ".trash" / "000001" / "sub").mkdir(parents=True)
    (directory / ".trash" / "000002").mkdir()
    with pytest.raises(CheckpointNotFoundError):
        trash.bring_back(directory, dry_run=True)
    assert (directory / ".trash" / "000002").exists()
    with pytest.raises(CheckpointNotFoundError):
        trash.bring_back(directory)
    assert not (directory / ".trash").exists()


@pytest.mark.parametrize("method", [removing.carry_out, trash.fill], ids=["removed", "moved"])
def test_what_another_process_has_removed_meanwhile_is_no_failure(directory, method):
    plan = removing.plan_cleaning(directory, recursive=True)
    shutil.rmtree(directory / "sub")
    (directory / "model_1.pt").unlink()
    done = method(plan)
    assert [os.path.basename(one.path) for one in done.removed] == ["model_2.pt"]
    assert done.failures == ()
    shutil.rmtree(directory)
    assert method(plan) == removing.Outcome((), ())


def test_what_another_process_is_about_to_remove_is_no_failure(directory):
    rest = ".model_9.pt.host.1.0123abcd.marlin-tmp"
    (directory / rest).write_bytes(b"half")
    plan = removing.plan_sweeping(directory)
    assert [one.name for one in plan.removals] == [rest]
    with open(directory / rest, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert removing.carry_out(plan) == removing.Outcome((), ())
    assert [one.name for one in removing.carry_out(plan).removed] == [rest]


def test_what_takes_the_place_of_a_file_at_the_last_moment_stays(directory, monkeypatch):
    real = os.rename

    def replace_first(source, target, **options):
        if source == "model_1.pt":
            (directory / "new").write_bytes(b"newer")
            real(directory / "new", directory / "model_1.pt")
        real(source, target, **options)

    monkeypatch.setattr(os, "rename", replace_first)
    done = throw_away(directory)
    assert [os.path.basename(one.path) for one in done.failures] == ["model_1.pt"]
    assert (directory / "model_1.pt").read_bytes() == b"newer"
    assert (directory / ".trash/000001/model_1.pt").read_bytes() == b"model_1.pt"
    assert [name for name in os.listdir(directory / ".trash/000001") if "tmp" in name] == []
