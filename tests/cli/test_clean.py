"""`marlin-ckpt clean`."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from marlin_ckpt.storage.local import temporary


@pytest.fixture
def clean(run_main):
    return functools.partial(run_main, "clean")


@pytest.fixture
def directory(tmp_path) -> Path:
    """Files to be removed and everything that looks like one."""
    directory = tmp_path / "checkpoints"
    for name in ("model_10.pt", "model_9.pt", "best.pt", "sub/model_3.pt", "model_model_9.pt"):
        write(directory / name, size=1000)
    for name in (
        "notes.ppt",
        "keepme.pt.bak",
        "model_1.ckpt",
        "MODEL_1.PT",
        ".pt",
        "pt",
        "outside/model_1.pt",
    ):
        write(directory / name)
    (directory / "folder_4.pt").mkdir()
    (directory / "link_5.pt").symlink_to("notes.ppt")
    os.rename(directory / "outside", tmp_path / "outside")
    (directory / "linked").symlink_to(tmp_path / "outside")
    os.mkfifo(directory / "fifo_6.pt")
    return directory


def write(path: Path, size: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.mark.parametrize(
    ("options", "removed"),
    [
        ([], ["best.pt", "model_9.pt", "model_model_9.pt", "model_10.pt"]),
        (["--recursive"], ["best.pt", "model_9.pt", "model_model_9.pt", "model_10.pt", "sub/model_3.pt"]),
        (["--prefix", "model"], ["model_9.pt", "model_model_9.pt", "model_10.pt"]),
        (["--ext", "ckpt"], ["model_1.ckpt"]),
        (["--ext", "pt.bak"], ["keepme.pt.bak"]),
        (["--prefix", "other"], []),
    ],
    ids=" ".join,
)
def test_exactly_what_was_asked_for_goes_and_each_file_is_printed(clean, directory, options, removed):
    before, outside = tree(directory), tree(directory.parent / "outside")
    code, out, err = clean(directory, *options)
    assert code == 0
    assert before - tree(directory) == set(removed)
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        f"removed {directory / one}" for one in removed
    ]
    files = "1 file" if len(removed) == 1 else f"{len(removed)} files"
    assert err.startswith(f"{files} in {directory}, ")
    assert tree(directory.parent / "outside") == outside == {"model_1.pt"}


def test_a_dry_run_removes_nothing_and_prints_what_a_real_one_does(clean, directory):
    before = tree(directory)
    code, foretold, talk = clean(directory, "--recursive", "--dry-run")
    assert (code, tree(directory)) == (0, before)
    assert talk == f"5 files in {directory}, would free 5 kB\n"
    code, done, talk = clean(directory, "--recursive")
    assert foretold == done.replace("removed ", "would remove ")
    assert (code, talk) == (0, f"5 files in {directory}, freed 5 kB\n")


def test_json_is_one_document_the_same_before_and_after(clean, directory):
    code, foretold, err = clean(directory, "--json", "--dry-run")
    assert (code, err) == (0, "")
    code, done, err = clean(directory, "--json")
    assert (code, err) == (0, "")
    document = json.loads(done)
    assert {**json.loads(foretold), "dry_run": False} == document
    assert document == {
        "schema": "marlin-ckpt/clean/1",
        "directory": str(directory),
        "dry_run": False,
        "to_trash": False,
        "removed": [
            {"path": str(directory / name), "size_bytes": 1000, "reason": "extension pt"}
            for name in ("best.pt", "model_9.pt", "model_model_9.pt", "model_10.pt")
        ],
        "failed": [],
        "bytes_freed": 4000,
    }


def test_nothing_is_asked_off_a_terminal(run_command, directory, tmp_path):
    (tmp_path / "answer").write_text("n\n")
    with (tmp_path / "answer").open() as answer:
        ended = run_command("clean", directory, stdin=answer)
    assert ended.returncode == 0
    assert b"?" not in ended.stdout + ended.stderr
    assert not (directory / "model_9.pt").exists()


def test_a_directory_with_nothing_to_remove_is_done(clean, tmp_path):
    assert clean(tmp_path) == (0, "", f"0 files in {tmp_path}, freed 0 B\n")


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--json"]], ids=" ".join)
def test_a_directory_that_is_not_there_exits_4(clean, tmp_path, options):
    code, out, err = clean(tmp_path / "missing", *options)
    assert (code, bool(out), err) == (
        4,
        "--json" in options,  # which prints a document where it fails, too
        f"error: no such directory: {tmp_path / 'missing'}\n",
    )


def test_a_link_in_place_of_the_directory_is_refused_with_the_name_to_use(clean, tmp_path):
    write(tmp_path / "real" / "model_1.pt")
    (tmp_path / "link").symlink_to("real")
    code, out, err = clean(tmp_path / "link")
    assert (code, out) == (1, "")
    assert "symbolic link" in err
    assert f"hint: name the directory that it points to: {tmp_path / 'real'}\n" in err
    assert (tmp_path / "real" / "model_1.pt").exists()


@pytest.mark.parametrize("as_json", [False, True], ids=["plain", "json"])
def test_what_cannot_be_removed_is_told_and_the_rest_goes(clean, users_directory, as_json):
    for name in ("a_1.pt", "locked/b_2.pt", "z_3.pt"):
        write(users_directory / name)
    (users_directory / "locked").chmod(0o500)
    code, out, err = clean(users_directory, "--recursive", *(["--json"] if as_json else []))
    assert code == 1
    assert tree(users_directory) == {"locked", "locked/b_2.pt"}
    kept = str(users_directory / "locked" / "b_2.pt")
    if as_json:
        document = json.loads(out)
        assert document["failed"] == [{"path": kept, "error": "Permission denied"}]
        assert (len(document["removed"]), document["bytes_freed"], err) == (2, 2, "")
    else:
        assert f"error: cannot remove: Permission denied: {kept}\n" in err
        assert err.endswith(f"2 files in {users_directory}, freed 2 B\n")
        assert kept not in out


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_goes(clean, users_directory):
    for name in ("a_1.pt", "closed/b_2.pt"):
        write(users_directory / name)
    (users_directory / "closed").chmod(0)
    code, _, err = clean(users_directory, "--recursive")
    assert (code, (users_directory / "a_1.pt").exists()) == (1, False)
    assert f"Permission denied: {users_directory / 'closed'}\n" in err


# A child that holds a temporary file as a save does, and tells its name.
_WRITER = """
import os, sys
from marlin_ckpt.storage.local import temporary
fd, name = temporary.create(os.open(sys.argv[1], os.O_RDONLY), "model_3.pt")
os.write(fd, b"half written")
print(name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def leave_temporary(repository):
    """Leaves the temporary file of a run that was killed in mid-save; returns its name."""

    def leave(directory: Path) -> str:
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(repository)},
        ) as child:
            name = child.stdout.readline().strip()
            child.send_signal(signal.SIGKILL)
        assert temporary.is_temporary(name)
        return name

    return leave


@pytest.mark.parametrize("options", [[], ["--ext", "ckpt"], ["--prefix", "other"]], ids=" ".join)
def test_a_dead_runs_temporaries_go_and_a_live_runs_stay(clean, leave_temporary, tmp_path, options):
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    live_fd, live = temporary.create(directory_fd, "model_4.pt")
    dead = leave_temporary(tmp_path)
    code, out, _ = clean(tmp_path, *options)
    assert (code, tree(tmp_path)) == (0, {live})
    assert out == f"removed {tmp_path / dead}  12 B  (left by a dead run)\n"
    os.close(live_fd)
    assert clean(tmp_path, *options)[1] == f"removed {tmp_path / live}  0 B  (left by a dead run)\n"
    os.close(directory_fd)


def test_temporaries_in_sub_directories_go_only_when_those_are_cleaned(clean, leave_temporary, tmp_path):
    (tmp_path / "sub").mkdir()
    dead = leave_temporary(tmp_path / "sub")
    assert clean(tmp_path)[1] == ""
    assert (tmp_path / "sub" / dead).exists()
    assert clean(tmp_path, "--recursive")[0] == 0
    assert tree(tmp_path) == {"sub"}


def test_other_hidden_files_are_no_temporaries(clean, tmp_path):
    for name in (".marlin-tmp", "x.marlin-tmp", ".model_1.pt.host.12.marlin-tmp", ".model_1.pt.tmp"):
        write(tmp_path / name)
    before = tree(tmp_path)
    assert clean(tmp_path)[0] == 0
    assert tree(tmp_path) == before
