"""What `clean` and `delete_existing_checkpoints` remove from any tree, and what they leave bit-identical."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments, StorageError
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import removing
from marlin_ckpt.storage.local import temporary

KINDS = [
    "file",
    "file",
    "file",
    "directory",
    "directory",
    "link to file",
    "link to directory",
    "dead link",
    "fifo",
]
TELLING_NAMES = [
    "model_1.pt", "model_2.pt", "model_model_3.pt", "model_mode_4.pt", "other_5.pt", "model_epoch_7.pt",
    "model-7.pt", "model_1.PT", "notes.ppt", "keepme.pt.bak", ".pt", "pt", "x.pt", "model_1.pt\n",
    "new\nline_1.pt", ".hidden.pt", "model_\u0661.pt", "model_1.safetensors", "x[red]_1.pt", "\udcff_1.pt",
    "model_1.pt.host.1.0a0a0a0a.marlin-tmp", ".model_1.pt.host.1.0a0a0a0a.marlin-tmp",
]  # fmt: skip
ANY_NAMES = (
    st.binary(min_size=1, max_size=12).map(os.fsdecode).filter(lambda name: not {"\0", "/"} & set(name))
)
NAMES = st.one_of(st.sampled_from(TELLING_NAMES), ANY_NAMES).filter(lambda name: name not in {".", ".."})
TREES = st.recursive(
    st.dictionaries(NAMES, st.sampled_from(KINDS), max_size=8),
    lambda below: st.dictionaries(NAMES, st.one_of(st.sampled_from(KINDS), below), max_size=8),
    max_leaves=6,
)


def plant(tree: dict, directory: str, outside: str) -> None:
    os.makedirs(directory, exist_ok=True)
    for number, (name, kind) in enumerate(tree.items()):
        path = os.path.join(directory, name)
        if isinstance(kind, dict):
            plant(kind, path, outside)
        elif kind == "directory":
            os.mkdir(path)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "file":
            Path(path).write_bytes(f"{name!r} {number}".encode())
        else:
            leads_to = {"link to file": "model_1.pt", "link to directory": "", "dead link": "missing"}[kind]
            os.symlink(os.path.join(outside, leads_to), path)


def snapshot(directory: str) -> dict[str, tuple]:
    """All that can be seen of a tree without following links: kinds, inodes, contents, where links lead."""
    seen = {}
    for parent, directories, names in os.walk(directory):
        for name in [*directories, *names]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            inside: bytes | str = b""
            if stat.S_ISREG(status.st_mode):
                inside = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                inside = os.readlink(path)
            seen[path] = (
                status.st_mode,
                status.st_ino,
                status.st_nlink * stat.S_ISREG(status.st_mode),
                inside,
            )
    return seen


def removed_from(tree: dict, remove: Callable[[str], None]) -> set[str]:
    """Plants a tree, removes, and tells what went; all else must be what it was."""
    with tempfile.TemporaryDirectory() as top:
        outside, inside = os.path.join(top, "outside"), os.path.join(top, "inside")
        plant({"model_1.pt": "file", "model_2.pt": "file"}, outside, "")
        plant(tree, inside, outside)
        before = snapshot(top)
        remove(inside)
        after = snapshot(top)
        assert after == {path: what for path, what in before.items() if path in after}
        gone = {os.path.relpath(path, inside): before[path] for path in set(before) - set(after)}
        assert all(
            stat.S_ISREG(what[0]) or any(map(is_left_by_a_dead_run, name.split(os.sep)))
            for name, what in gone.items()
        )
        return set(gone)


def fitting(tree: dict, fits: Callable[[str], bool], *, recursive: bool) -> set[str]:
    """The rule, said once more: regular files whose names fit, reached through folders alone.

    A folder that a dead run left half written goes with all in it.
    """
    found = {name for name, kind in tree.items() if kind == "file" and fits(name)}
    for name, below in tree.items():
        if is_folder(below) and is_left_by_a_dead_run(name) and fits(name):
            found |= {name} | {os.path.join(name, one) for one in all_in(below)}
        elif recursive and isinstance(below, dict):
            found |= {os.path.join(name, one) for one in fitting(below, fits, recursive=True)}
    return found


def is_folder(kind: object) -> bool:
    return kind == "directory" or isinstance(kind, dict)


def all_in(tree: object) -> Iterator[str]:
    for name, below in tree.items() if isinstance(tree, dict) else ():
        yield name
        yield from (os.path.join(name, one) for one in all_in(below))


def is_left_by_a_dead_run(name: str) -> bool:
    return re.fullmatch(r"\..+\.[A-Za-z0-9_-]+\.[0-9]+\.[0-9a-f]{8}\.marlin-tmp", name, re.DOTALL) is not None


@settings(max_examples=75)
@given(tree=TREES, extension=st.sampled_from(["pt", "ppt", "bak", "PT"]), recursive=st.booleans())
def test_clean_removes_the_regular_files_of_the_extension_and_leaves_all_else(tree, extension, recursive):
    def fits(name: str) -> bool:
        stem, dot, ending = name.rpartition(".")
        return (bool(stem and dot) and ending == extension) or is_left_by_a_dead_run(name)

    def remove(directory: str) -> None:
        plan = removing.plan_cleaning(directory, extension=extension, recursive=recursive)
        outcome = removing.carry_out(plan)
        assert outcome.failures == ()
        assert outcome.removed == plan.removals

    assert removed_from(tree, remove) == fitting(tree, fits, recursive=recursive)


@settings(max_examples=50)
@given(
    tree=TREES,
    prefix=st.sampled_from(["model", "other", "new\nline", "mod", "x[red]"]),
    recursive=st.booleans(),
)
def test_clean_with_a_prefix_removes_only_its_checkpoints_and_model_files(tree, prefix, recursive):
    grammar = re.compile(re.escape(prefix) + r"(_model|_mode)?_[0-9]+\.pt")

    def fits(name: str) -> bool:
        return grammar.fullmatch(name) is not None or is_left_by_a_dead_run(name)

    def remove(directory: str) -> None:
        removing.carry_out(removing.plan_cleaning(directory, prefix=prefix, recursive=recursive))

    assert removed_from(tree, remove) == fitting(tree, fits, recursive=recursive)


@settings(max_examples=50)
@given(tree=TREES)
def test_delete_existing_checkpoints_removes_files_of_the_extension_from_the_directory_itself_alone(tree):
    def fits(name: str) -> bool:
        return len(name) > 3 and name.endswith(".pt")

    def remove(directory: str) -> None:
        arguments = DefaultCheckpointerArguments(save_dir=directory, log_level="ERROR")
        arguments.delete_existing_checkpoints = True
        DefaultCheckpointer(arguments)

    assert removed_from(tree, remove) == fitting(tree, fits, recursive=False)


def test_a_hard_link_elsewhere_keeps_the_content_of_a_removed_file(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "model_1.pt").write_bytes(b"kept")
    os.link(tmp_path / "inside" / "model_1.pt", tmp_path / "best.pt")
    removing.carry_out(removing.plan_cleaning(tmp_path / "inside"))
    assert os.listdir(tmp_path / "inside") == []
    assert (tmp_path / "best.pt").read_bytes() == b"kept"


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A link to a directory with a checkpoint."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "model_1.pt").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    return tmp_path / "link"


# A shell completes the name of a link to a directory with a slash, and the kernel then follows it.
@pytest.mark.parametrize("ending", ["", "/", "//"])
def test_clean_refuses_a_link_in_place_of_the_directory_and_tells_what_to_name(linked, ending, capsys):
    assert main(["clean", str(linked) + ending]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: refused: removing through a symbolic link: " in captured.err
    assert f"hint: name the directory that it points to: {linked.resolve()}\n" in captured.err
    assert (linked / "model_1.pt").read_bytes() == b"precious"


@pytest.mark.parametrize("ending", ["", "/"])
def test_delete_existing_checkpoints_refuses_a_link_in_place_of_the_directory_and_logs_it(
    linked, ending, caplog
):
    save_dir = str(linked) + ending
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=save_dir, delete_existing_checkpoints=True))
    assert (linked / "model_1.pt").read_bytes() == b"precious"
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "symbolic link" in errors[0]
    assert str(linked) in errors[0]


@pytest.fixture
def immovable(monkeypatch):
    """Makes the system refuse to remove files whose name holds "stuck", as `chattr +i` does."""
    unlink = os.unlink

    def refuse(path, *args, **kwargs):
        if "stuck" in os.fspath(path):
            raise PermissionError(1, "Operation not permitted")
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(os, "unlink", refuse)


def test_delete_existing_checkpoints_logs_what_it_cannot_remove_and_goes_on(tmp_path, immovable, caplog):
    for name in ("a_1.pt", "stuck_2.pt", "z_3.pt"):
        (tmp_path / name).write_bytes(b"to go")
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=tmp_path, delete_existing_checkpoints=True))
    assert os.listdir(tmp_path) == ["stuck_2.pt"]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"Could not delete {tmp_path / 'stuck_2.pt'}: Operation not permitted"]


def test_a_plan_that_cannot_be_carried_out_in_one_place_is_carried_out_in_the_others(tmp_path, immovable):
    for name in ("a_1.pt", "stuck_2.pt", "z_3.pt"):
        (tmp_path / name).write_bytes(b"12345")
    outcome = removing.carry_out(removing.plan_cleaning(tmp_path))
    assert [os.path.basename(one.path) for one in outcome.removed] == ["a_1.pt", "z_3.pt"]
    assert [(os.path.basename(one.path), one.error) for one in outcome.failures] == [
        ("stuck_2.pt", "Operation not permitted")
    ]
    assert outcome.bytes_freed == 10
    assert os.listdir(tmp_path) == ["stuck_2.pt"]


@pytest.mark.parametrize("sweep", [removing.plan_cleaning, removing.plan_sweeping])
def test_a_temporary_file_that_its_run_locks_only_after_the_decision_stays(tmp_path, sweep):
    # A saver makes its file and locks it in two steps; a cleaner may look between them.
    name = temporary.temporary_name("model_1.pt")
    with open(tmp_path / name, "wb") as file:
        plan = sweep(tmp_path)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        outcome = removing.carry_out(plan)
        assert os.listdir(tmp_path) == [name]
        assert outcome.removed == ()


def test_a_directory_that_cannot_be_read_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(StorageError) as caught:
        removing.plan_cleaning(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)
    assert (tmp_path / "file").read_bytes() == b"kept"
