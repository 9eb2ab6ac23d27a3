"""What DefaultCheckpointer refuses to load, and as what it names it."""

from __future__ import annotations

import errno
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from marlin_ckpt import (
    BadFileError,
    CorruptCheckpointError,
    NotACheckpointError,
    StorageError,
    UnsafeCheckpointError,
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


def _zip_bytes(compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), data)
    return buffer.getvalue()


def _truncated() -> bytes:
    return _torch_bytes(PAYLOAD)[:-200]


BAD_FILES: dict[str, tuple[Callable[[], bytes], type[BadFileError], str]] = {
    "text": (lambda: b"epoch 3, loss 0.5\n", NotACheckpointError, "a text file"),
    "empty": (lambda: b"", NotACheckpointError, "an empty file"),
    "bare pickle": (lambda: pickle.dumps(PAYLOAD["trainer_state"]), NotACheckpointError, "a bare pickle"),
    "noise": (lambda: bytes(range(256)) * 4, NotACheckpointError, "neither a zip nor a torch file"),
    "safetensors": (lambda: b"\x02\0\0\0\0\0\0\0{}", NotACheckpointError, "a safetensors file"),
    "truncated zip": (_truncated, CorruptCheckpointError, "truncated"),
    "bytes appended": (lambda: _torch_bytes(PAYLOAD) + b"x", CorruptCheckpointError, "bytes follow the end"),
    "other dict": (lambda: _torch_bytes({"a": 1, "b": 2}), NotACheckpointError, "a dict of 'a', 'b'"),
    "more keys": (lambda: _torch_bytes({**PAYLOAD, "x": 1}), NotACheckpointError, "'x'"),
    "fewer keys": (
        lambda: _torch_bytes({"trainer_state": {}}),
        NotACheckpointError,
        "a dict of 'trainer_state'",
    ),
    "many keys": (
        lambda: _torch_bytes(dict.fromkeys(range(9))),
        NotACheckpointError,
        r"0, 1, 2, 3, 4, \.\.\.",
    ),
    "empty dict": (lambda: _torch_bytes({}), NotACheckpointError, "an empty dict"),
    "list": (lambda: _torch_bytes([1]), NotACheckpointError, "a pickled list"),
    "tensor": (lambda: _torch_bytes(torch.ones(2)), NotACheckpointError, "a pickled Tensor"),
    "state dict": (
        lambda: _torch_bytes(torch.nn.Linear(2, 2).state_dict()),
        NotACheckpointError,
        "a model file",
    ),
    "Lightning": (
        lambda: _torch_bytes({"pytorch-lightning_version": "2.5", "state_dict": {}}),
        NotACheckpointError,
        "a checkpoint by Lightning",
    ),
    "legacy file of another dict": (
        lambda: _torch_bytes({"a": 1}, _use_new_zipfile_serialization=False),
        NotACheckpointError,
        "a dict of 'a'",
    ),
    "truncated legacy file": (
        lambda: _torch_bytes(PAYLOAD, _use_new_zipfile_serialization=False)[:-10],
        CorruptCheckpointError,
        "cannot be unpickled",
    ),
    "zip": (lambda: _zip_bytes(readme=b"hello"), NotACheckpointError, "a zip of something else"),
    "empty zip": (_zip_bytes, NotACheckpointError, "not a checkpoint"),
    "TorchScript": (
        lambda: _zip_bytes(m__data_pkl=b"\x80\x02}.", m__constants_pkl=b"\x80\x02).", m__version=b"3\n"),
        NotACheckpointError,
        "a TorchScript archive",
    ),
    "compressed otherwise than torch reads": (
        lambda: _zip_bytes(zipfile.ZIP_BZIP2, m__data_pkl=b"\x80\x02}." * 9),
        CorruptCheckpointError,
        "compressed by method 12, which torch does not read",
    ),
    "broken pickle": (
        lambda: _zip_bytes(m__data_pkl=b"\x80\x02}"),
        CorruptCheckpointError,
        "cannot be unpickled",
    ),
}


@pytest.mark.parametrize("load_filename", [None, "model_7.pt"], ids=["found", "named"])
@pytest.mark.parametrize("what", BAD_FILES)
def test_a_file_that_is_no_checkpoint_is_an_error_that_names_it_and_what_it_is(
    directory, make_checkpointer, what, load_filename
):
    content, kind, words = BAD_FILES[what]
    (directory / "model_7.pt").write_bytes(content())
    with pytest.raises(BadFileError, match=words) as caught:
        make_checkpointer(load_filename=load_filename).load()
    assert type(caught.value) is kind
    assert caught.value.where == str(directory / "model_7.pt")
    assert str(directory / "model_7.pt") in str(caught.value)
    assert "\n" not in str(caught.value)
    # torch's own message advises to load such a file without `weights_only`, which helps nobody here.
    assert "Re-running" not in str(caught.value)


def test_the_newest_intact_checkpoint_is_loaded_and_the_log_names_what_was_passed_over(
    directory, make_checkpointer, make_checkpoint, caplog
):
    checkpointer = make_checkpointer()
    for index in (1, 2, 3):
        checkpointer.save(make_checkpoint(index), index)
    flip_a_bit_of_the_data(directory / "model_3.pt")
    (directory / "model_4.pt").write_bytes(b"torn")
    assert make_checkpointer().load().trainer_state == {"last_epoch": 2}
    passed_over = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(": ")[0] for text in passed_over] == ["Passed over", "Passed over"]
    assert passed_over[0].endswith("model_4.pt")
    assert "module_interface_state.weight" in passed_over[1]


def test_where_files_are_there_and_none_is_intact_it_is_an_error_that_names_the_newest(
    directory, make_checkpointer, make_checkpoint
):
    checkpointer = make_checkpointer()
    checkpointer.save(make_checkpoint(), 1)
    checkpointer.save(make_checkpoint(), 2)
    flip_a_bit_of_the_data(directory / "model_1.pt")
    flip_a_bit_of_the_data(directory / "model_2.pt")
    with pytest.raises(CorruptCheckpointError, match=r"model_2\.pt") as caught:
        checkpointer.load()
    assert caught.value.tensors == ("module_interface_state.weight",)
    assert "none of 2 checkpoints" in caught.value.hint


def test_a_corrupt_file_that_was_named_is_an_error_that_names_the_newest_intact_one(
    directory, make_checkpointer, make_checkpoint
):
    checkpointer = make_checkpointer(load_filename="model_2.pt")
    for index in (1, 2, 3):
        checkpointer.save(make_checkpoint(), index)
    flip_a_bit_of_the_data(directory / "model_2.pt")
    flip_a_bit_of_the_data(directory / "model_3.pt")
    with pytest.raises(CorruptCheckpointError, match=r"model_2\.pt") as caught:
        checkpointer.load()
    assert caught.value.hint == f"the newest intact checkpoint is {directory / 'model_1.pt'}"


def test_an_unsafe_newest_checkpoint_is_refused_and_not_passed_over(
    directory, make_checkpointer, make_checkpoint
):
    make_checkpointer().save(make_checkpoint(), 1)
    torch.save(dict.fromkeys(PAYLOAD, Unsafe()), directory / "model_2.pt")
    with pytest.raises(UnsafeCheckpointError, match=r"model_2\.pt"):
        make_checkpointer().load()


class Unsafe:
    """Of a type that `weights_only` does not know."""


def flip_a_bit_of_the_data(path):
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo("archive/data/0").header_offset
    # 64 bytes after the header's aligned end the data of an 8 x 8 tensor is still going on.
    at = (header + 128) // 64 * 64 + 64
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "state",
    [
        torch.nn.Linear(2, 2).state_dict(),
        {"weight": torch.ones(2), "epoch": 3},
        {"encoder": {"weight": torch.ones(2)}},
        {},
        [1],
        PAYLOAD,
    ],
    ids=["state dict", "mixed", "nested", "empty", "list", "the three keys"],
)
def test_a_file_by_save_model_is_told_to_be_a_model_file_whatever_its_state(make_checkpointer, state):
    checkpointer = make_checkpointer(load_filename="model_model_3.pt")
    checkpointer.save_model(state, 3)
    with pytest.raises(NotACheckpointError, match=r"not a checkpoint but a model file.*model_model_3\.pt"):
        checkpointer.load()


@pytest.mark.parametrize(
    ("make", "words", "number"),
    [
        (os.mkfifo, "is a FIFO", errno.EINVAL),
        (os.mkdir, "is a directory", errno.EINVAL),
        (lambda path: os.symlink("/dev/zero", path), "is a character device", errno.EINVAL),
        (lambda path: os.symlink(path, path), "Too many levels", errno.ELOOP),
    ],
    ids=["FIFO", "directory", "device", "loop"],
)
def test_a_named_file_that_is_no_regular_file_is_an_error_at_once(
    directory, make_checkpointer, make, words, number
):
    make(directory / "model_1.pt")
    with pytest.raises(StorageError, match=f"cannot read: {words}") as caught:
        make_checkpointer(load_filename="model_1.pt").load()
    assert (caught.value.where, caught.value.errno) == (str(directory / "model_1.pt"), number)


def test_a_load_dir_that_is_a_file_is_an_error_and_never_a_fresh_start(tmp_path, make_checkpointer):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Not a directory: .*/file"):
        make_checkpointer(load_dir=str(tmp_path / "file")).load()


class _Executes:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("legacy", [False, True])
def test_an_unsafe_file_is_refused_with_its_names_and_nothing_of_it_runs(
    directory, tmp_path, make_checkpointer, legacy
):
    state = {**PAYLOAD, "trainer_state": _Executes(str(tmp_path / "ran"))}
    (directory / "model_1.pt").write_bytes(_torch_bytes(state, _use_new_zipfile_serialization=not legacy))
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.mkdir.*model_1\.pt") as caught:
        make_checkpointer().load()
    assert caught.value.names == ("posix.mkdir",)
    assert "weights_only: false" in caught.value.hint
    assert not (tmp_path / "ran").exists()


def test_weights_only_false_loads_what_was_refused(directory, tmp_path, make_checkpointer):
    state = {**PAYLOAD, "trainer_state": _Executes(str(tmp_path / "ran"))}
    (directory / "model_1.pt").write_bytes(_torch_bytes(state))
    checkpointer = make_checkpointer()
    with pytest.raises(UnsafeCheckpointError):
        checkpointer.load()
    checkpointer.args.weights_only = False
    assert checkpointer.load().trainer_state is None
    assert (tmp_path / "ran").is_dir()
