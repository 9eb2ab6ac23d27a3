"""What DefaultCheckpointer loads, and what it refuses to take for a checkpoint."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
import torch

from marlin_ckpt import (
    ArgumentsError,
    Checkpoint,
    CheckpointNotFoundError,
)

PAYLOAD = {
    "module_interface_state": {"weight": torch.arange(6.0).reshape(2, 3)},
    "trainer_state": {"last_epoch": 4},
    "trainer_backend_state": None,
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where `make_checkpointer` loads from."""
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def _torch_bytes(state: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("load_dir", [None, ""])
def test_without_a_load_dir_an_empty_checkpoint_is_loaded(make_checkpointer, make_checkpoint, load_dir):
    checkpointer = make_checkpointer(load_dir=load_dir)
    checkpointer.save(make_checkpoint(), 1)
    assert checkpointer.load() == Checkpoint()


def test_a_load_filename_without_a_load_dir_is_told_to_be_ignored(make_checkpointer, caplog):
    assert make_checkpointer(load_dir=None, load_filename="model_1.pt").load() == Checkpoint()
    assert "load_filename model_1.pt is ignored, since load_dir is not set" in caplog.text


@pytest.mark.parametrize("content", [None, [], ["notes.ppt"], ["model_model_9.pt"], ["model_best.pt"]])
def test_where_there_is_nothing_to_load_an_empty_checkpoint_is_loaded_and_it_is_told(
    tmp_path: Path, make_checkpointer, caplog, content: list[str] | None
):
    if content is not None:
        (tmp_path / "load").mkdir()
        for name in content:
            (tmp_path / "load" / name).touch()
    with caplog.at_level(logging.INFO):
        assert make_checkpointer(load_dir=str(tmp_path / "load")).load() == Checkpoint()
    told = [record for record in caplog.records if str(tmp_path / "load") in record.getMessage()]
    assert [record.levelname for record in told] == ["INFO"]


def test_the_checkpoint_of_the_greatest_index_is_loaded(make_checkpointer, make_checkpoint):
    checkpointer = make_checkpointer()
    for index in (9, 10, 2):
        checkpointer.save(make_checkpoint(float(index)), index)
    checkpointer.save_model({"weight": torch.ones(2)}, 11)
    loaded = checkpointer.load()
    assert loaded.trainer_state == {"last_epoch": 10}
    assert torch.equal(loaded.module_interface_state["weight"], torch.full((8, 8), 10.0))
    assert loaded.trainer_backend_state == {"global_step_completed": 3}


@pytest.mark.parametrize("name", ["model_2.pt", "sub/best.bin", "custom name"])
def test_a_load_filename_is_loaded_whatever_it_is_called(directory, make_checkpointer, make_checkpoint, name):
    checkpointer = make_checkpointer()
    checkpointer.save(make_checkpoint(9.0), 9)
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_bytes(_torch_bytes(PAYLOAD))
    checkpointer.args.load_filename = name
    assert checkpointer.load().trainer_state == {"last_epoch": 4}


@pytest.mark.parametrize("name", ["gone.pt", "sub/gone.pt"])
def test_a_load_filename_that_is_missing_is_an_error_and_never_a_fresh_start(
    directory, make_checkpointer, make_checkpoint, name
):
    checkpointer = make_checkpointer(load_filename=name)
    checkpointer.save(make_checkpoint(), 1)
    with pytest.raises(CheckpointNotFoundError, match="no such file") as caught:
        checkpointer.load()
    assert caught.value.where == str(directory / name)


def test_a_load_filename_in_a_missing_load_dir_is_an_error_too(tmp_path, make_checkpointer):
    with pytest.raises(CheckpointNotFoundError, match=r"no such file: .*gone/model_1\.pt"):
        make_checkpointer(load_dir=str(tmp_path / "gone"), load_filename="model_1.pt").load()


@pytest.mark.parametrize("name", ["../model_1.pt", "sub/../../model_1.pt", "..", "/etc/hostname"])
def test_a_load_filename_set_later_still_may_not_leave_load_dir(make_checkpointer, make_checkpoint, name):
    checkpointer = make_checkpointer()
    checkpointer.save(make_checkpoint(), 1)
    checkpointer.args.load_filename = name
    with pytest.raises(ArgumentsError, match="load_filename: must stay inside load_dir"):
        checkpointer.load()


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_a_file_by_torch_save_with_the_three_keys_loads(directory, make_checkpointer, caplog, options):
    (directory / "model_1.pt").write_bytes(_torch_bytes(PAYLOAD, **options))
    loaded = make_checkpointer().load()
    assert torch.equal(loaded.module_interface_state["weight"], torch.arange(6.0).reshape(2, 3))
    assert (loaded.trainer_state, loaded.trainer_backend_state) == ({"last_epoch": 4}, None)
    assert loaded.metrics is None
    assert ("cannot be verified" in caplog.text) is bool(options)


def test_a_file_by_torch_save_without_checksums_loads_and_says_so(directory, make_checkpointer, caplog):
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        (directory / "model_1.pt").write_bytes(_torch_bytes(PAYLOAD))
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    assert make_checkpointer().load().trainer_state == {"last_epoch": 4}
    assert "model_1.pt was saved without checksums: it cannot be verified" in caplog.text
