"""`show` and `verify` take `-` for standard input, from a pipe as from a file."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import marlin_ckpt
from marlin_ckpt.cli.main import main
from marlin_ckpt.errors import CheckpointNotFoundError


@contextmanager
def standard_input(fd: int) -> Iterator[None]:
    kept = os.dup(0)
    os.dup2(fd, 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@contextmanager
def piped(path: Path) -> Iterator[None]:
    reading, writing = os.pipe()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), open(writing, "wb") as file:
            file.write(path.read_bytes())

    writer = threading.Thread(target=write)
    writer.start()
    with standard_input(reading):
        yield
    os.close(reading)
    writer.join()


@contextmanager
def redirected(path: Path) -> Iterator[None]:
    with path.open("rb") as file, standard_input(file.fileno()):
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save({"w": torch.arange(300_000.0)}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.mark.parametrize("given", [piped, redirected])
def test_a_file_is_shown_and_verified_without_a_name(path, capsys, given: Callable) -> None:
    with given(path):
        assert main(["show", "-", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["size_bytes"]) == ("-", path.stat().st_size)
    assert told["tensors"][0]["elements"] == 300_000
    with given(path):
        assert main(["show", "-", "--stats", "*"]) == 0
    assert "3e+05" in capsys.readouterr().out
    with given(path):
        assert main(["verify", "-", str(path)]) == 0
    assert capsys.readouterr().out.split() == ["intact", "-", "intact", str(path)]


def test_damage_and_strangers_exit_with_3(path, capsys) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with piped(path):
        assert main(["verify", "-", "--json"]) == 3
    (verdict,) = json.loads(capsys.readouterr().out)["files"]
    assert (verdict["path"], verdict["status"], verdict["tensors"]) == ("-", "corrupt", ["w"])
    path.write_text("notes")
    for command in ("verify", "show"):
        with piped(path):
            assert main([command, "-"]) == 3
        said = capsys.readouterr()
        assert "a text file" in said.out + said.err


def test_the_copy_has_no_name_and_is_gone_afterwards(path, tmp_path, monkeypatch) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with piped(path):
        assert main(["show", "-"]) == 0
    assert os.listdir(place) == []


def test_no_room_for_the_copy_is_an_error_that_names_the_place(path, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with piped(path):
        assert main(["show", "-"]) == 1
    said = capsys.readouterr().err
    assert "cannot copy standard input to a file" in said
    assert str(tmp_path / "gone") in said


def test_a_terminal_is_refused(capsys) -> None:
    ours, theirs = os.openpty()
    with standard_input(theirs):
        assert main(["show", "-"]) == 1
    os.close(ours)
    os.close(theirs)
    assert "standard input is a terminal" in capsys.readouterr().err


def test_for_the_library_and_with_a_directory_it_is_a_name(path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError):
        marlin_ckpt.inspect("-")
    path.rename(tmp_path / "-")
    assert [one.name for one in marlin_ckpt.inspect("-").tensors] == ["w"]
    assert main(["verify", "./-"]) == 0
