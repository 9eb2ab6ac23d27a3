"""What a search for the newest checkpoint passes over, and what ends it: one table for all who search."""

from __future__ import annotations

import errno
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from marlin_ckpt import (
    Checkpoint,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    DirectoryInUseError,
    MarlinError,
    NotACheckpointError,
    StateMismatchError,
    StorageError,
    UnknownFormatError,
    UnloadableStateError,
    UnsafeCheckpointError,
)
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import notes
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.directory.newest import is_passed_over, newest_intact, newest_loadable
from marlin_ckpt.operations import starting

EVERY_ERRNO = sorted(errno.errorcode)


@pytest.mark.parametrize("number", EVERY_ERRNO, ids=[errno.errorcode[one] for one in EVERY_ERRNO])
def test_of_all_errors_of_the_system_only_a_bad_block_is_passed_over(number):
    error = StorageError.of("cannot read", "model_1.pt", OSError(number, os.strerror(number)))
    assert is_passed_over(error) is (number == errno.EIO)


@pytest.mark.parametrize(
    ("kind", "passed_over"),
    [
        (CorruptCheckpointError, True),
        (NotACheckpointError, True),
        (UnknownFormatError, False),
        (UnsafeCheckpointError, False),
        (UnloadableStateError, False),
        (StateMismatchError, False),
        (StorageError, False),
        (CheckpointNotFoundError, False),
        (DirectoryInUseError, False),
        (MarlinError, False),
    ],
)
def test_only_a_file_whose_own_content_is_bad_is_passed_over(kind, passed_over):
    assert is_passed_over(kind("what", "model_1.pt")) is passed_over


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Holds two intact checkpoints; the newest is spoiled by a test."""
    own = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=tmp_path, weights_only=False))
    for index in (1, 2):
        own.save(Checkpoint({"w": torch.full((1000,), float(index))}, {"epoch": index}), index)
    return tmp_path


def arguments(directory: Path, **fields) -> DefaultCheckpointerArguments:
    return DefaultCheckpointerArguments(save_dir=directory, load_dir=directory, **fields)


def loaded_epoch(directory: Path, **fields) -> int:
    return DefaultCheckpointer(arguments(directory, **fields)).load().trainer_state["epoch"]


def resumed_from(directory: Path) -> str:
    start = starting.decide(arguments(directory), epochs=5, resume=True)
    return os.path.basename(start.resumes_from)


def failing_reads(monkeypatch, path: Path, number: int, times: int = 1000) -> None:
    """From now on reads of a file's data fail, so many times."""
    real, left = os.preadv, [times]

    def preadv(fd: int, buffers: object, offset: int) -> int:
        if left[0] and os.readlink(f"/proc/self/fd/{fd}") == str(path):
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)


class Net(torch.nn.Linear):
    """A module that a user pickles whole; nothing here imports it unasked."""


STRANGERS = [
    ({"weights": torch.zeros(3), "epoch": 1}, "a dict of 'weights', 'epoch'"),
    ({"weight": torch.zeros(3)}, "a model file"),
    (torch.nn.Linear(2, 2).state_dict(), "a model file"),
    ([torch.zeros(3)], "a pickled list"),
    (torch.zeros(3), "a pickled "),
    ({}, "an empty dict"),
    ({"pytorch-lightning_version": "2"}, "a checkpoint by Lightning"),
    (
        {"module_interface_state": {}, "trainer_state": {}},
        "a dict of 'module_interface_state', 'trainer_state'",
    ),
    (Net(2, 2), "a pickled "),
]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(("held", "says"), STRANGERS, ids=[says for _, says in STRANGERS])
def test_a_sound_file_that_is_no_checkpoint_is_passed_over_by_every_search_and_told_as_what_it_is(
    directory, caplog, held, says, legacy
):
    stranger = directory / "model_9.pt"
    torch.save(held, stranger, _use_new_zipfile_serialization=not legacy)
    assert loaded_epoch(directory) == 2
    assert f"not a checkpoint but {says}" in caplog.text
    start = starting.decide(arguments(directory), epochs=5, resume=True)
    assert (os.path.basename(start.resumes_from), start.runs) == ("model_2.pt", ())
    (told,) = start.skipped
    assert told.startswith(f"{stranger}: not a checkpoint: {says}")
    with pytest.raises((NotACheckpointError, UnsafeCheckpointError)):
        loaded_epoch(directory, load_filename="model_9.pt")


def test_a_model_file_of_ours_and_safetensors_under_the_name_of_a_checkpoint_are_passed_over(
    directory, tmp_path
):
    own = DefaultCheckpointer(DefaultCheckpointerArguments(model_state_save_dir=tmp_path))
    os.rename(own.save_model({"w": torch.zeros(3)}, 9), directory / "model_9.pt")  # type: ignore[arg-type]
    save_file({"w": torch.zeros(3)}, directory / "model_8.pt")
    assert loaded_epoch(directory) == 2
    start = starting.decide(arguments(directory), epochs=5, resume=True)
    assert os.path.basename(start.resumes_from) == "model_2.pt"
    assert [one.partition(": ")[2] for one in start.skipped] == [
        "not a checkpoint: a model file",
        "not a checkpoint: a safetensors file",
    ]


def test_where_there_is_nothing_but_strangers_the_newest_is_named_and_is_no_checkpoint(tmp_path):
    for index in (1, 2):
        torch.save({"weights": 1}, tmp_path / f"model_{index}.pt")
    assert resumed_from(tmp_path) == "model_2.pt"
    with pytest.raises(NotACheckpointError, match=r"not a checkpoint but a dict of 'weights': .*model_2\.pt"):
        loaded_epoch(tmp_path)


def test_a_checkpoint_without_a_manifest_is_one_also_with_metrics_and_classes_of_the_users(directory, code):
    states = {"module_interface_state": code.Config(), "trainer_state": {"epoch": 3}}
    torch.save({**states, "trainer_backend_state": None, "metrics": {}}, directory / "model_3.pt")
    assert loaded_epoch(directory, weights_only=False) == 3
    assert resumed_from(directory) == "model_3.pt"
    with pytest.raises(UnsafeCheckpointError):
        loaded_epoch(directory)


def test_a_suspect_is_taken_where_every_other_file_is_bad(directory):
    torch.save({"weights": 1}, directory / "model_9.pt")
    (directory / "model_1.pt").unlink()
    for _ in range(notes.MOST_STARTS):
        with (
            pytest.raises(ValueError, match="of the run"),
            notes.counted_start(str(directory / "model_2.pt")),
        ):
            raise ValueError("of the run")
    start = starting.decide(arguments(directory), epochs=5, resume=True)
    assert os.path.basename(start.resumes_from) == "model_2.pt"
    assert [one.partition(": ")[2] for one in start.skipped] == ["not a checkpoint: a dict of 'weights'"]


def test_a_bad_block_in_the_newest_file_is_passed_over_by_every_search(directory, monkeypatch, capsys):
    failing_reads(monkeypatch, directory / "model_2.pt", errno.EIO)
    assert loaded_epoch(directory) == 1
    assert resumed_from(directory) == "model_1.pt"
    assert main(["latest", str(directory), "--intact"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{directory / 'model_1.pt'}\n"
    assert "cannot read: Input/output error" in err


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOMEM, errno.ETIMEDOUT, errno.ESTALE])
def test_another_error_of_the_system_ends_every_search(directory, monkeypatch, number):
    failing_reads(monkeypatch, directory / "model_2.pt", number)
    with pytest.raises(StorageError, match=r"model_2\.pt") as caught:
        loaded_epoch(directory)
    assert caught.value.errno == number
    with pytest.raises(StorageError, match=r"model_2\.pt"):
        resumed_from(directory)
    assert main(["latest", str(directory), "--intact"]) == 1


def test_a_stale_handle_is_tried_once_more(directory, monkeypatch):
    failing_reads(monkeypatch, directory / "model_2.pt", errno.ESTALE, times=1)
    assert loaded_epoch(directory) == 2
    failing_reads(monkeypatch, directory / "model_2.pt", errno.ESTALE, times=1)
    assert resumed_from(directory) == "model_2.pt"


def test_a_newer_format_ends_every_search(directory):
    newest = directory / "model_2.pt"
    data = bytearray(newest.read_bytes())
    at = data.index(b'"format_version":1')
    record = data[data.rindex(b'{"created"', 0, at) : data.index(b"}PK", at) + 1]
    from isal import isal_zlib

    newer = record.replace(b'"format_version":1', b'"format_version":9')
    crcs = [isal_zlib.crc32(one).to_bytes(4, "little") for one in (record, newer)]
    newest.write_bytes(bytes(data).replace(record, newer).replace(*crcs))
    with pytest.raises(UnknownFormatError, match="format 9"):
        loaded_epoch(directory)
    with pytest.raises(UnknownFormatError, match="format 9"):
        resumed_from(directory)
    assert main(["latest", str(directory), "--intact"]) == 3


@pytest.fixture
def code(monkeypatch):
    """A module of the user's with two classes; one cannot be made again."""

    def refuse(self: object, state: object) -> None:
        raise RuntimeError("of another version")

    module = types.ModuleType("mycode")
    module.Config = type("Config", (), {"__module__": "mycode"})
    module.Bad = type("Bad", (), {"__module__": "mycode", "__setstate__": refuse})
    monkeypatch.setitem(sys.modules, "mycode", module)
    return module


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no module", "ModuleNotFoundError: No module named 'mycode'"),
        ("no class", "AttributeError: .*Config"),
        ("a class that raises", "RuntimeError: of another version"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_code_that_is_not_there_ends_the_search_and_is_no_damage(
    directory, code, monkeypatch, what, message, legacy
):
    made = code.Bad() if what == "a class that raises" else code.Config()
    made.value = 1
    payload = {"module_interface_state": made, "trainer_state": {"epoch": 3}, "trainer_backend_state": None}
    torch.save(payload, directory / "model_3.pt", _use_new_zipfile_serialization=not legacy)
    if what == "no module":
        monkeypatch.delitem(sys.modules, "mycode")
    elif what == "no class":
        del code.Config
    if legacy and what == "a class that raises":
        return  # nothing proves that it is no damage
    with pytest.raises(UnloadableStateError, match=message) as caught:
        loaded_epoch(directory, weights_only=False)
    assert caught.value.where == str(directory / "model_3.pt")
    assert caught.value.exit_code == 1


def test_memory_that_is_not_there_ends_the_search(directory, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr("marlin_ckpt.formats.torch.placement.UntypedStorage", refuse)
    with pytest.raises(StorageError, match="not enough memory") as caught:
        loaded_epoch(directory)
    assert caught.value.errno == errno.ENOMEM


def test_of_a_format_without_checksums_the_newest_is_loaded_with_a_warning_and_is_not_intact(
    directory, caplog
):
    payload = {"module_interface_state": {}, "trainer_state": {"epoch": 3}, "trainer_backend_state": None}
    torch.save(payload, directory / "model_3.pt", _use_new_zipfile_serialization=False)
    assert loaded_epoch(directory) == 3
    assert "it cannot be verified" in caplog.text
    assert resumed_from(directory) == "model_3.pt"
    loadable = newest_loadable(lambda: newest_first(directory, "model"))
    intact = newest_intact(lambda: newest_first(directory, "model"))
    assert [one and one.index for one in (loadable, intact)] == [3, 2]
