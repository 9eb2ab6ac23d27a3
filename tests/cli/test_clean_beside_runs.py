"""`marlin-ckpt clean` in the directory of a run that is under way."""

from __future__ import annotations

import json
import os

import pytest

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.directory import lease, trash
from marlin_ckpt.naming import OWN_DIRECTORY


def saved(directory, own=None):
    own = own or DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(directory)))
    for index in range(3):
        own.save(Checkpoint({"v": index}), index)
    return own


def files(directory):
    found = []
    for folder, _, names in os.walk(directory):
        found += [os.path.relpath(os.path.join(folder, name), directory) for name in names]
    return sorted(name for name in found if OWN_DIRECTORY not in name)


WAYS = {
    "all": [],
    "rules": ["--keep-last", "1"],
    "trash": ["--to-trash"],
    "trash by rules": ["--keep-last", "1", "--to-trash"],
    "undo": ["--undo"],
    "empty trash": ["--empty-trash"],
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_changed_and_the_exit_code_is_5_until_the_run_has_ended(tmp_path, run_main, way):
    before = files(saved_with_trash(tmp_path))
    own = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path)))
    with own.running():
        code, out, err = run_main("clean", str(tmp_path), *WAYS[way], "--yes")
        assert (code, out) == (5, "")
        assert f"process {os.getpid()}" in err
        assert "hint: " in err
        assert files(tmp_path) == before
        assert run_main("clean", str(tmp_path), *WAYS[way], "--dry-run")[0] == 0
    assert run_main("clean", str(tmp_path), *WAYS[way], "--yes")[0] == 0
    assert files(tmp_path) != before


def saved_with_trash(directory):
    saved(directory)
    (directory / "model_9.pt").write_text("")
    (directory / trash.TRASH / "000001").mkdir(parents=True)
    (directory / "model_9.pt").rename(directory / trash.TRASH / "000001" / "model_9.pt")
    return directory


def test_a_run_in_a_folder_below_is_found_and_nothing_goes_in_the_others_either(tmp_path, run_main):
    saved(tmp_path / "one")
    own = saved(tmp_path / "two")
    before = files(tmp_path)
    with own.running():
        assert run_main("clean", str(tmp_path), "--recursive", "--yes")[0] == 5
    assert files(tmp_path) == before
    assert run_main("clean", str(tmp_path), "--recursive", "--yes")[0] == 0
    assert files(tmp_path) == []


def test_it_makes_no_folder_of_ours_where_no_run_has_been(tmp_path, run_main):
    saved(tmp_path)
    assert run_main("clean", str(tmp_path), "--yes")[0] == 0
    assert os.listdir(tmp_path) == []


def test_no_run_begins_while_it_removes(tmp_path, run_main, monkeypatch):
    own, seen = saved(tmp_path), []
    with own.running():
        pass
    carry_out = trash.fill

    def looks(plan, **options):
        with pytest.raises(lease.DirectoryInUseError), own.running():
            pytest.fail("a run begins")
        seen.append(len(plan.removals))
        return carry_out(plan, **options)

    monkeypatch.setattr(trash, "fill", looks)
    assert run_main("clean", str(tmp_path), "--to-trash", "--yes")[0] == 0
    assert seen == [3]


def test_with_json_too(tmp_path, run_main):
    own = saved(tmp_path)
    with own.running():
        code, out, _ = run_main("clean", str(tmp_path), "--yes", "--json")
    assert code == 5
    assert json.loads(out or "{}").get("removed", []) == []


@pytest.mark.parametrize("holder", [{"removes": True, "pid": 1}, {}], ids=["a removal", "not noted yet"])
def test_it_waits_for_another_clean_and_finds_nothing_wrong_in_what_that_removed(
    tmp_path, run_main, monkeypatch, holder
):
    with saved(tmp_path).running():
        pass
    real, waits = lease.Lease.take, []

    def take(one, **options):
        if len(waits) < 3:
            raise lease.DirectoryInUseError("in use", holder=holder)
        (tmp_path / "model_0.pt").unlink()
        real(one, **options)

    monkeypatch.setattr(lease.Lease, "take", take)
    monkeypatch.setattr(lease.time, "sleep", waits.append)
    code, out, _ = run_main("clean", str(tmp_path), "--yes", "--json")
    assert (code, len(waits)) == (0, 3)
    assert [os.path.basename(one["path"]) for one in json.loads(out)["removed"]] == [
        "model_1.pt",
        "model_2.pt",
    ]
    assert json.loads(out)["failed"] == []


def test_a_run_that_begins_while_it_removes_is_told_what_is_under_way(tmp_path):
    own = saved(tmp_path)
    with own.running():
        pass
    with (
        lease.held_where_used([str(tmp_path)]),
        pytest.raises(lease.DirectoryInUseError, match=r"marlin-ckpt clean \(process .* removes checkpoints"),
        own.running(),
    ):
        pytest.fail("a run begins")
