"""What commands say of checkpoints that share bytes on the disk."""

from __future__ import annotations

import json
import os
import re

import pytest

from tests.support.clones import Clones
from tests.support.shared_saves import LARGE, saves, share_all, states_of_a_run

TENSOR = 4 * LARGE


@pytest.fixture
def clones(monkeypatch):
    return Clones().put_in(monkeypatch)


@pytest.fixture
def shared(tmp_path, clones):
    """Four checkpoints of two large tensors, of which one never changes and has two copies."""
    paths = saves(tmp_path / "d", states_of_a_run(4))
    assert clones.shared[1:]  # the first is the trial
    return paths


@pytest.fixture(params=["as if", "really"])
def directory(request):
    """A new directory on a file system that shares blocks."""
    if request.param == "really":
        return request.getfixturevalue("reflinks") / request.node.originalname
    request.getfixturevalue("clones")
    return request.getfixturevalue("tmp_path") / "d"


def is_near(size_bytes: int, expected: int) -> bool:
    """Whether a size is another one, with headers and padding."""
    return expected <= size_bytes < expected + 200_000


def test_clean_says_what_is_given_back_and_not_how_long_the_files_are(shared, tmp_path, run_main):
    _, _, err = run_main("clean", tmp_path / "d", "--keep-last", "2", "--dry-run")
    assert re.search(r"2 files in .*, would free 2.4\d MB", err)
    for options in (["--dry-run"], []):
        code, out, err = run_main("clean", tmp_path / "d", "--keep-last", "2", *options, "--json")
        assert (code, err) == (0, "")
        document = json.loads(out)
        assert is_near(sum(one["size_bytes"] for one in document["removed"]), 4 * TENSOR)
        assert is_near(document["bytes_freed"], 2 * TENSOR)


def test_emptying_the_trash_gives_back_what_no_checkpoint_has_any_more(clones, tmp_path, run_main):
    saves(tmp_path / "d", states_of_a_run(5))
    moved = json.loads(run_main("clean", tmp_path / "d", "--keep-last", "1", "--to-trash", "--json")[1])
    assert (len(moved["removed"]), moved["bytes_freed"]) == (4, 0)
    document = json.loads(run_main("clean", tmp_path / "d", "--empty-trash", "--json")[1])
    assert is_near(document["bytes_freed"], 5 * TENSOR)  # the last one has a copy of what never changes


def test_list_shows_what_each_would_give_back_where_files_share_bytes(
    shared, tmp_path, run_main, monkeypatch
):
    code, out, err = run_main("list", tmp_path / "d")
    titles, *rows = out.splitlines()
    assert (code, titles.split()[:5]) == (0, ["index", "kind", "size", "own", "age"])
    assert [row.split()[2:6] for row in rows] == [["2.43", "MB", "1.24", "MB"]] * 4
    assert re.match(r"4 checkpoints, 9.74 MB \(7.3\d MB on the disk\), 1 run", err)
    monkeypatch.setenv("COLUMNS", "50")
    narrow, out, err = run_main("list", tmp_path / "d")
    assert (narrow, "own" in out.splitlines()[0].split()) == (0, False)
    assert "own (1.24 MB)" in err


def test_list_has_no_such_column_where_nothing_is_shared(clones, tmp_path, run_main):
    saves(tmp_path / "d", states_of_a_run(1))
    _, out, err = run_main("list", tmp_path / "d")
    assert "own" not in out.splitlines()[0].split()
    assert "on the disk" not in err


def test_the_document_of_list_has_what_each_would_give_back_and_what_all_take(shared, tmp_path, run_main):
    document = json.loads(run_main("list", tmp_path / "d", "-n", "2", "--json")[1])
    assert len(document["checkpoints"]) == 2
    assert is_near(document["disk_bytes"], 6 * TENSOR)
    assert all(is_near(one["own_bytes"], TENSOR) for one in document["checkpoints"])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert json.loads(run_main("list", empty, "--json")[1])["disk_bytes"] is None


def test_show_says_what_one_has_alone(shared, run_main):
    code, out, _ = run_main("show", shared[3])
    assert (code, "own        1.24 MB, and 1.2 MB shared on the disk" in out) == (0, True)
    assert is_near(json.loads(run_main("show", shared[3], "--json")[1])["own_bytes"], TENSOR)


def test_report_says_what_all_take_on_the_disk_and_what_each_would_give_back(shared, tmp_path, run_main):
    document = json.loads(run_main("report", tmp_path / "d", "--keep-last", "2", "--json")[1])
    totals, (retention,) = document["totals"], document["retention"]
    assert (is_near(totals["size_bytes"], 8 * TENSOR), is_near(totals["disk_bytes"], 6 * TENSOR)) == (
        True,
        True,
    )
    assert all(is_near(one["own_bytes"], TENSOR) for one in document["points"])
    assert is_near(retention["kept_bytes"], 4 * TENSOR)
    assert is_near(retention["removed_bytes"], 2 * TENSOR)
    page = run_main("report", tmp_path / "d", "-o", "-")[1]
    assert re.search(r"7.3\d MB</dd><dd class=\"about\">9.74 MB in files", page)
    assert ">Own<" in page


def test_verify_says_how_many_copies_there_are_of_what_is_shared(directory, run_main):
    shared = saves(directory, states_of_a_run(4))
    code, out, err = run_main("verify", directory)
    assert (code, out.count("(2 copies on the disk of what it shares)"), "warning" in err) == (0, 4, False)
    document = json.loads(run_main("verify", directory, "--json")[1])
    assert ([one["copies"] for one in document["files"]], document["one_copy"]) == ([2] * 4, [])
    document = json.loads(run_main("verify", shared[0], "--json")[1])  # of which the others are not known
    assert ([one["copies"] for one in document["files"]], document["one_copy"]) == ([None], [])
    os.unlink(shared[1])
    code, out, _ = run_main("verify", directory)
    assert (code, out.count("2 copies on"), out.count(" what it shares")) == (0, 2, 2)


def test_verify_warns_of_what_several_hold_and_the_disk_has_once(directory, run_main):
    paths = share_all(directory)
    code, out, err = run_main("verify", directory)
    assert (code, out.count("(1 copy on the disk of what it shares)")) == (0, 2)
    assert f"warning: {paths[0]}, {paths[1]} have one copy of 2 large tensors (2.4 MB): a bad block" in err
    assert "warning" in run_main("verify", directory, "--quiet")[2]
    document = json.loads(run_main("verify", directory, "--json")[1])
    assert document["one_copy"] == [{"paths": paths, "records": 2, "size_bytes": 2 * TENSOR}]
    with open(paths[1], "r+b") as file:  # a damaged file counts as no copy
        file.seek(-3000, os.SEEK_END)
        file.write(b"?")
    document = json.loads(run_main("verify", directory, "--json")[1])
    assert ([one["copies"] for one in document["files"]], document["one_copy"]) == ([None] * 2, [])
