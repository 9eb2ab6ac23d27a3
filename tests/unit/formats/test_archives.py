"""What an archive in a file lacks is never taken from another one, and never guessed."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
import torch

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.torch.reader import read_file
from marlin_ckpt.storage.local.files import open_source


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """A file whose state lacks its tensor's record, which stands under the same label in another archive."""
    saved = io.BytesIO()
    torch.save({"w": torch.ones(5000)}, saved)
    path = tmp_path / "model_1.pt"
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w") as file:
        for name in whole.namelist():
            archive, _, label = name.partition("/")
            file.writestr(name if label != "data/0" else f"other{archive}/{label}", whole.read(name))
    return os.fspath(path)


def test_a_tensor_whose_record_is_in_another_archive_is_missing_and_not_loaded(mixed):
    with pytest.raises(CorruptCheckpointError, match="data/0"):
        read_file(mixed, weights_only=True, log=lambda _: None)


def test_a_tensor_whose_record_is_in_another_archive_has_no_bytes_in_the_outline(mixed):
    with open_source(mixed) as source:
        (tensor,) = read_contents(source).tensors
    assert (tensor.start, tensor.storage_bytes) == (0, 0)


def test_a_record_of_another_archive_in_front_of_the_state_is_not_taken_for_its_own(tmp_path):
    saved = io.BytesIO()
    torch.save({"w": torch.ones(5000)}, saved)
    path = tmp_path / "model_1.pt"
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w") as file:
        file.writestr("other/data/0", bytes(20000))
        for name in whole.namelist():
            file.writestr(name, whole.read(name))
    state, _ = read_file(os.fspath(path), weights_only=True, log=lambda _: None)
    assert torch.equal(state["w"], torch.ones(5000))


def test_a_file_in_no_known_order_of_bytes_is_corrupt_as_it_is_to_torch(tmp_path):
    saved = io.BytesIO()
    torch.save({"w": torch.ones(5)}, saved)
    path = tmp_path / "model_1.pt"
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w") as file:
        for name in whole.namelist():
            file.writestr(name, b"middle" if name.endswith("/byteorder") else whole.read(name))
    with pytest.raises(ValueError, match="Unknown endianness"):
        torch.load(path)
    with open_source(path) as source, pytest.raises(CorruptCheckpointError, match="neither little nor big"):
        read_contents(source)
