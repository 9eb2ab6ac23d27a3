"""Full disks, missing permissions and directories that go away: by the library and by `train`."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, StorageError
from marlin_ckpt.cli.main import main
from marlin_ckpt.naming import OWN_DIRECTORY
from tests.support.folders import visible
from tests.support.users import unprivileged


def checkpointer_in(directory: Path, **fields) -> DefaultCheckpointer:
    return DefaultCheckpointer(
        DefaultCheckpointerArguments(
            save_dir=directory, model_state_save_dir=directory, load_dir=directory, **fields
        )
    )


def checkpoint(elements: int, value: float = 1.0) -> Checkpoint:
    return Checkpoint({"weight": torch.full((elements,), value)}, {}, {})


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.parent.name != OWN_DIRECTORY
    }


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "marlin-ckpt-test", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount on this machine; test_calls.py fails each call with ENOSPC all the same")
    if mounted.returncode != 0:
        pytest.skip("not allowed to mount; test_calls.py fails each call with ENOSPC all the same")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path, leaving: int) -> None:
    status = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - leaving))


def train(config: Path, save_dir: Path, *options: str) -> int:
    sets = [f"checkpointer.save_dir={save_dir}", *options]
    return main(["train", "--config", str(config), *(part for one in sets for part in ("--set", one))])


def assert_train_failed(capsys, cause: int, *paths: Path) -> None:
    """Exactly one line tells of the error, and no traceback."""
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert os.strerror(cause) in errors[0]
    assert any(errors[0].endswith(f": {path}") for path in paths)
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize("elements", [100_000, 1_000_000])
def test_a_save_onto_a_full_disk_leaves_the_older_file_and_nothing_else(small_disk, elements):
    checkpointer = checkpointer_in(small_disk)
    checkpointer.save(checkpoint(10_000), 1)
    fill(small_disk, leaving=100_000)
    before = contents(small_disk)
    for save in (checkpointer.save, checkpointer.save_model):
        with pytest.raises(StorageError) as caught:
            save(checkpoint(elements, 2.0), 1)
        assert caught.value.errno == errno.ENOSPC
        assert os.strerror(errno.ENOSPC) in str(caught.value)
        assert str(small_disk / "model_") in str(caught.value)
        assert contents(small_disk) == before
    (small_disk / "filler").unlink()
    path = checkpointer.save(checkpoint(50_000, 2.0), 1)
    assert path == str(small_disk / "model_1.pt")
    assert checkpointer.load().module_interface_state["weight"].tolist() == [2.0] * 50_000


@pytest.mark.parametrize("leaving", [0, 4096, 8192])
def test_train_onto_a_full_disk_exits_1_and_names_the_file_and_the_cause(
    small_disk, repository, capsys, leaving
):
    (small_disk / "checkpoints").mkdir()
    path = small_disk / "checkpoints" / "model_0.pt"
    fill(small_disk, leaving)
    before = contents(small_disk)
    options = ["module.width=64"]
    assert train(repository / "configs" / "ci.yaml", path.parent, *options) == 1
    assert "error: too little room for a checkpoint of" in capsys.readouterr().err
    options.append("checkpointer.check_space=false")
    assert train(repository / "configs" / "ci.yaml", path.parent, *options) == 1
    assert_train_failed(capsys, errno.ENOSPC, path)
    assert contents(small_disk) == before


def test_a_file_larger_than_the_process_may_write_leaves_the_older_one_and_nothing_else(tmp_path):
    checkpointer = checkpointer_in(tmp_path)
    checkpointer.save(checkpoint(10), 1)
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError) as caught:
            checkpointer.save(checkpoint(50_000), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert str(tmp_path / "model_1.pt") in str(caught.value)
    assert contents(tmp_path) == before


def test_a_save_into_a_directory_that_may_not_be_written_names_the_file_and_leaves_the_older_one(public):
    directory = public / "checkpoints"
    checkpointer = checkpointer_in(directory)
    checkpointer.save(checkpoint(10), 1)
    directory.chmod(0o555)
    before = contents(directory)
    with unprivileged(), pytest.raises(StorageError) as caught:
        checkpointer.save(checkpoint(10, 2.0), 1)
    assert caught.value.errno == errno.EACCES
    assert str(directory / "model_1.pt") in str(caught.value)
    assert contents(directory) == before


@pytest.mark.parametrize("mode", [0o555, 0o000], ids=oct)
def test_a_directory_that_may_not_be_made_is_named(public, mode):
    (public / "closed").mkdir()
    (public / "closed").chmod(mode)
    with unprivileged(), pytest.raises(StorageError) as caught:
        checkpointer_in(public / "closed" / "below" / "deep").save(checkpoint(10), 1)
    assert caught.value.errno == errno.EACCES
    assert str(public / "closed" / "below" / "deep") in str(caught.value)
    (public / "closed").chmod(0o755)
    assert os.listdir(public / "closed") == []


@pytest.mark.parametrize("where", ["closed", "closed/below"])
def test_train_where_it_may_not_write_exits_1_and_names_path_and_cause(public, repository, capsys, where):
    shutil.copy(repository / "configs" / "ci.yaml", public)
    # Once with all permissions, so that nothing is left to import where an unprivileged user may not read.
    assert train(public / "ci.yaml", public / "open") == 0
    (public / "closed").mkdir()
    (public / "closed").chmod(0o555)
    capsys.readouterr()
    with unprivileged():
        assert train(public / "ci.yaml", public / where) == 1
    named = ["model_0.pt", "below", OWN_DIRECTORY]
    assert_train_failed(capsys, errno.EACCES, *(public / "closed" / name for name in named))
    assert os.listdir(public / "closed") == []


class RemovesItsDirectory:
    """A state that takes the directory away in the middle of a save: while it is pickled."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __reduce__(self):
        shutil.rmtree(self.directory)
        return (str, ())


def test_a_directory_removed_in_mid_save_is_told_and_the_next_save_makes_it_again(tmp_path):
    directory = tmp_path / "checkpoints"
    checkpointer = checkpointer_in(directory)
    checkpointer.save(checkpoint(10), 1)
    with pytest.raises(StorageError) as caught:
        checkpointer.save(Checkpoint(RemovesItsDirectory(directory), {}, {}), 2)
    assert caught.value.errno == errno.ENOENT
    assert str(directory / "model_2.pt") in str(caught.value)
    assert not directory.exists()
    assert checkpointer.save(checkpoint(10), 3) == str(directory / "model_3.pt")
    assert os.listdir(directory) == ["model_3.pt"]


MODULE = """
import shutil
from marlin_ckpt.training.toys import spiral
from marlin_ckpt.arguments import SpiralArguments

class Removes:
    def __init__(self, directory):
        self.directory = directory
    def __reduce__(self):
        shutil.rmtree(self.directory)
        return (str, ())

class Spiral(spiral.Spiral):
    def __init__(self, directory):
        super().__init__(SpiralArguments(points=60))
        self.directory = directory
    def get_state(self):
        return {"whole": super().get_state(), "trap": Removes(self.directory)}
"""


def test_train_exits_1_and_names_path_and_cause_when_its_directory_is_removed(tmp_path, monkeypatch, capsys):
    (tmp_path / "removes_its_directory.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    directory = tmp_path / "checkpoints"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"module: {{name: 'removes_its_directory:Spiral', args: {{directory: '{directory}'}}}}\n"
        "trainer: {epochs: 1, device: cpu}\n"
        "checkpointer: {model_state_save_dir: null}\n"
    )
    assert train(config, directory) == 1
    assert_train_failed(capsys, errno.ENOENT, directory / "model_0.pt")
    assert not directory.exists()


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_train_with_a_file_in_the_place_of_its_directory_exits_1_and_leaves_it(
    tmp_path, repository, capsys, where
):
    (tmp_path / "file").write_bytes(b"kept")
    assert train(repository / "configs" / "ci.yaml", tmp_path / where) == 1
    captured = capsys.readouterr()
    assert "error: " in captured.err
    assert str(tmp_path / where) in captured.err
    assert "Traceback" not in captured.err
    assert contents(tmp_path) == {"file": b"kept"}


@pytest.mark.parametrize("inside", [[], ["kept.txt"]], ids=["empty", "full"])
def test_a_directory_under_the_final_name_is_left_and_named(tmp_path, repository, capsys, inside):
    in_the_way = tmp_path / "checkpoints" / "model_0.pt"
    in_the_way.mkdir(parents=True)
    for name in inside:
        (in_the_way / name).write_bytes(b"kept")
    assert train(repository / "configs" / "ci.yaml", in_the_way.parent) == 1
    assert_train_failed(capsys, errno.EISDIR, in_the_way)
    assert visible(in_the_way.parent) == ["model_0.pt"]
    assert os.listdir(in_the_way) == inside
