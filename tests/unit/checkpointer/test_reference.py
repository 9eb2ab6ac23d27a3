"""PyMarlin's own TestCheckpointer, and its emptying of `save_dir`, kept in this project's words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments


class _PicklableMock(mock.MagicMock):
    """The mock of PyMarlin's own tests: it pickles as a plain MagicMock."""

    def __reduce__(self):
        return (mock.MagicMock, ())


def _mocks() -> Checkpoint:
    return Checkpoint(_PicklableMock(), _PicklableMock(), _PicklableMock())


@pytest.fixture
def checkpointer(tmp_path: Path, monkeypatch) -> DefaultCheckpointer:
    """Made as PyMarlin's `setUp` makes it, relative paths and all."""
    monkeypatch.chdir(tmp_path)
    arguments = DefaultCheckpointerArguments(
        checkpoint=False,
        delete_existing_checkpoints=True,
        period=2,
        save_dir=os.path.join("outputs", "save_dir"),
        model_state_save_dir=os.path.join("outputs", "model_save_dir"),
        load_dir=os.path.join("outputs", "load_dir"),
        file_prefix="test",
        file_ext="tar",
    )
    os.makedirs(arguments.load_dir)
    return DefaultCheckpointer(arguments)


def _listing(directory: str | os.PathLike[str]) -> list[str]:
    return sorted(os.listdir(directory)) if os.path.exists(directory) else []


def test_the_references_save_sequence_gives_the_references_files(checkpointer):
    directory = checkpointer.args.save_dir
    checkpointer.save(_mocks(), 0)
    assert _listing(directory) == []
    checkpointer.args.checkpoint = True
    checkpointer.save(_mocks(), 1, force=True)
    assert _listing(directory) == ["test_1.tar"]
    checkpointer.save(_mocks(), 3)
    assert _listing(directory) == ["test_1.tar"]
    checkpointer.save(_mocks(), 4)
    checkpointer.save(_mocks(), 4)
    assert _listing(directory) == ["test_1.tar", "test_4.tar"]


def test_the_references_save_model_sequence_gives_the_references_files(checkpointer):
    directory = checkpointer.args.model_state_save_dir
    checkpointer.save_model(_PicklableMock(), 0)
    assert _listing(directory) == []
    checkpointer.args.checkpoint = True
    checkpointer.save_model(_PicklableMock(), 0)
    checkpointer.save_model(_PicklableMock(), 1)
    assert _listing(directory) == ["test_model_0.tar", "test_model_1.tar"]


def test_the_references_load_sequence_gives_the_references_states(checkpointer):
    arguments = checkpointer.args
    arguments.load_dir = "non_existing_folder"
    assert checkpointer.load() == Checkpoint()
    for unset in ("", None):
        arguments.load_dir = unset
        assert checkpointer.load() == Checkpoint()
    arguments.load_dir = os.path.join("outputs", "load_dir")
    assert checkpointer.load() == Checkpoint()

    checkpoint = Checkpoint({}, {"last_epoch": 0}, {})
    torch.save(checkpoint.payload(), os.path.join(arguments.load_dir, "test_0.tar"))
    assert checkpointer.load().trainer_state["last_epoch"] == 0
    checkpoint.trainer_state["last_epoch"] = 1
    arguments.load_filename = "custom_filename.tar"
    torch.save(checkpoint.payload(), os.path.join(arguments.load_dir, arguments.load_filename))
    assert checkpointer.load().trainer_state["last_epoch"] == 1


def test_the_references_latest_file_is_the_one_of_the_greater_index(checkpointer):
    arguments = checkpointer.args
    paths = [os.path.join(arguments.load_dir, f"test_{index}.tar") for index in (1, 2)]
    for path in paths:
        torch.save(_mocks().payload(), path)
    found = checkpointer.get_latest_file(arguments.load_dir, arguments.file_prefix, arguments.file_ext)
    assert found == paths[1]


def test_mocks_that_were_saved_load_as_mocks_when_weights_only_is_off(checkpointer):
    checkpointer.args.checkpoint = True
    checkpointer.args.load_dir = checkpointer.args.save_dir
    checkpointer.args.weights_only = False
    checkpointer.save(_mocks(), 2)
    loaded = checkpointer.load()
    states = [loaded.module_interface_state, loaded.trainer_state, loaded.trainer_backend_state]
    assert [isinstance(state, mock.MagicMock) for state in states] == [True, True, True]


def test_a_file_of_ours_opens_as_pymarlin_opens_it(checkpointer):
    checkpointer.args.checkpoint = True
    path = checkpointer.save(Checkpoint({"w": torch.ones(2)}, {"last_epoch": 2}, {}, {"loss": 0.5}), 2)
    payload = torch.load(path, map_location=torch.device("cpu"))
    assert list(payload) == ["module_interface_state", "trainer_state", "trainer_backend_state"]
    assert Checkpoint(**payload).trainer_state == {"last_epoch": 2}


KEPT_FILES = [".pt", "apt", "keepme.pt.bak", "model_2.PT", "notes.ppt"]
KEPT = sorted([*KEPT_FILES, "folder_link.pt", "link.pt", "sub.pt"])


def _fill(directory: Path) -> None:
    (directory / "sub.pt").mkdir(parents=True)
    for name in [*KEPT_FILES, "model_1.pt", "other.pt", "sub.pt/model_3.pt"]:
        (directory / name).write_text(name)
    (directory.parent / "precious.pt").write_text("precious")
    (directory / "link.pt").symlink_to(directory.parent / "precious.pt")
    (directory / "folder_link.pt").symlink_to(directory / "sub.pt")


def test_deleting_existing_checkpoints_removes_the_regular_files_of_the_extension_and_nothing_else(
    tmp_path: Path, make_checkpointer: Callable[..., DefaultCheckpointer]
):
    directory = tmp_path / "checkpoints"
    _fill(directory)
    make_checkpointer(delete_existing_checkpoints=True)
    assert _listing(directory) == KEPT
    assert _listing(directory / "sub.pt") == ["model_3.pt"]
    assert (tmp_path / "precious.pt").read_text() == "precious"


def test_nothing_is_deleted_unless_asked(tmp_path: Path, make_checkpointer):
    _fill(tmp_path / "checkpoints")
    checkpointer = make_checkpointer()
    checkpointer.args.delete_existing_checkpoints = True
    checkpointer.save(Checkpoint({}, {}, {}), 5)
    assert _listing(tmp_path / "checkpoints") == sorted([*KEPT, "model_1.pt", "other.pt", "model_5.pt"])


def test_deleting_in_a_directory_that_is_not_there_makes_none(tmp_path: Path, make_checkpointer):
    make_checkpointer(delete_existing_checkpoints=True)
    assert _listing(tmp_path) == []


def test_a_directory_that_cannot_be_emptied_is_logged_and_does_not_stop_the_run(
    tmp_path: Path, make_checkpointer, caplog
):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "model_1.pt").touch()
    (tmp_path / "checkpoints").symlink_to("real")
    checkpointer = make_checkpointer(delete_existing_checkpoints=True)
    assert "Could not delete checkpoints" in caplog.text
    assert _listing(tmp_path / "real") == ["model_1.pt"]
    assert checkpointer.save(Checkpoint({}, {}, {}), 2) == str(tmp_path / "checkpoints" / "model_2.pt")
