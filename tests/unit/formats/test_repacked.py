"""A sound file that another tool packed is read as if its writer had, and damage to it is found."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from marlin_ckpt import Checkpoint, CorruptCheckpointError, StorageError, UnsafeCheckpointError
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.pickle import storages
from marlin_ckpt.formats.values import arrays
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.formats.zip import records, structures
from marlin_ckpt.formats.zip.reader import read_container
from marlin_ckpt.storage.local.files import open_source
from tests.support.sources import bytes_source

WEIGHT = torch.randn(70, 50, generator=torch.Generator().manual_seed(3))
STATE = {
    "module_interface_state": {"weight": WEIGHT, "column": WEIGHT[:, 3], "zeros": torch.zeros(300_000)},
    "trainer_state": {"epoch": 3},
    "trainer_backend_state": None,
}


def repacked(path: Path, how: int = zipfile.ZIP_DEFLATED, folders: bool = False) -> bytes:
    """The records of a file, packed by Python's zipfile in the order of their names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", how) as new:
        if folders:
            new.mkdir("archive")
            new.mkdir("archive/data")
        for name in sorted(old.namelist()):
            new.writestr(name, old.read(name))
    return buffer.getvalue()


@pytest.fixture(params=["ours", "by torch.save"])
def whole(request, make_checkpointer, tmp_path: Path) -> Path:
    path = Path(make_checkpointer().save(Checkpoint(**STATE, metrics={"loss": 0.5}), 1))
    if request.param != "ours":
        torch.save(STATE, path)
    return path


@pytest.mark.parametrize(
    ("pack", "why"),
    [
        (repacked, "are deflated"),
        (lambda path: repacked(path, zipfile.ZIP_STORED, folders=True), "entries for folders"),
        (lambda path: repacked(path, zipfile.ZIP_STORED), "another tool packed it"),
    ],
    ids=["deflated", "folders", "stored"],
)
def test_a_sound_file_that_was_packed_anew_is_not_corrupt_and_loads_the_same(
    whole: Path, make_checkpointer, pack: Callable[[Path], bytes], why: str
) -> None:
    before = make_checkpointer().load()
    whole.write_bytes(pack(whole))
    assert why in read_container(bytes_source(whole.read_bytes())).repacked
    assert verify(str(whole)).status is not Status.CORRUPT
    loaded = make_checkpointer().load()
    for name, tensor in STATE["module_interface_state"].items():
        assert torch.equal(loaded.module_interface_state[name], tensor)
    assert loaded.trainer_state == {"epoch": 3}
    assert loaded.metrics == before.metrics


@pytest.mark.parametrize(
    "change",
    [lambda data: None, lambda data: data[:-4], lambda data: data + bytes(4)],
    ids=["missing", "shorter", "longer"],
)
def test_a_file_that_was_packed_anew_without_some_of_its_data_is_corrupt_and_the_tensors_are_named(
    tmp_path: Path, change: Callable[[bytes], bytes | None]
) -> None:
    path = tmp_path / "state.pt"
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "anew.pt", "w") as new:
        for name in old.namelist():
            data = change(old.read(name)) if name.endswith("data/0") else old.read(name)
            if data is not None:
                new.writestr(name, data)
    verdict = verify(str(tmp_path / "anew.pt"))
    assert verdict.status is Status.CORRUPT
    assert verdict.tensors == ("module_interface_state.weight", "module_interface_state.column")
    assert main(["verify", str(tmp_path / "anew.pt")]) == 3


def test_the_names_of_many_tensors_that_are_lost_are_looked_up_once(tmp_path: Path, monkeypatch) -> None:
    torch.save({f"w{number}": torch.zeros(3) for number in range(50)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as old, zipfile.ZipFile(tmp_path / "anew.pt", "w") as new:
        for name in old.namelist():
            if "/data/" not in name:
                new.writestr(name, old.read(name))
    looked_up: list[int] = []
    real = storages.tensor_names
    monkeypatch.setattr(storages, "tensor_names", lambda pickle: looked_up.append(1) or real(pickle))
    assert len(verify(str(tmp_path / "anew.pt")).tensors) == 50
    assert len(looked_up) == 1


def test_a_file_that_there_is_not_memory_enough_to_look_into_is_not_called_sound(whole, monkeypatch) -> None:
    def fail(pickle: bytes) -> dict[str, int]:
        raise MemoryError

    monkeypatch.setattr(storages, "record_sizes", fail)
    whole.write_bytes(repacked(whole))
    with open_source(str(whole)) as source, pytest.raises(StorageError, match="not enough memory"):
        records.check_storages(source, read_container(source))


def test_a_file_of_its_writers_own_form_is_not_repacked(whole: Path) -> None:
    assert read_container(bytes_source(whole.read_bytes())).repacked == ""


def test_the_values_of_a_deflated_file_are_those_of_the_whole_one(
    whole: Path, tmp_path: Path, capsys
) -> None:
    deflated = tmp_path / "deflated.pt"
    deflated.write_bytes(repacked(whole))
    with open_source(str(deflated)) as source:
        found = {one.name.rpartition(".")[2]: one for one in read_contents(source).tensors}
        assert np.array_equal(arrays.read_bits(source, found["weight"]), WEIGHT)
        assert np.array_equal(arrays.read_bits(source, found["column"]), WEIGHT[:, 3])
        blocks = list(arrays.blocks(source, found["zeros"], 7000))
    assert sum(map(len, blocks)) == 300_000
    assert main(["diff", str(whole), str(deflated)]) == 0
    assert main(["show", str(deflated), "--stats", "*"]) == 0


def test_a_flipped_bit_in_deflated_data_is_found_and_the_tensor_is_named(whole: Path) -> None:
    data = bytearray(repacked(whole))
    whole.write_bytes(data)
    container = read_container(bytes_source(bytes(data)))
    record = next(one for one in container.records if one.name.endswith("data/0"))
    for at in range(0, record.stored_bytes, 97):
        data[container.data_offsets[record.name] + at] ^= 16
        whole.write_bytes(data)
        verdict = verify(str(whole))
        assert verdict.status is Status.CORRUPT
        assert [name.rpartition(".")[2] for name in verdict.tensors] == ["weight", "column"]
        data[container.data_offsets[record.name] + at] ^= 16


def test_deflated_data_that_is_shorter_or_longer_than_its_record_is_corrupt(whole: Path) -> None:
    data = repacked(whole)
    name = next(one.name for one in read_container(bytes_source(data)).records if "data/1" in one.name)
    at = data.rindex(name.encode())
    assert data[at - 46 : at - 42] == structures.CENTRAL_SIGNATURE
    header = data.index(name.encode()) - 30
    for size in (300_000 * 4 - 1, 300_000 * 4 + 1):
        lying = bytearray(data)
        lying[at - 46 + 24 : at - 46 + 28] = lying[header + 22 : header + 26] = struct.pack("<L", size)
        whole.write_bytes(lying)
        assert verify(str(whole)).status is Status.CORRUPT


def test_a_file_that_inflates_to_far_more_than_its_length_is_refused_and_not_called_corrupt(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w") as data:
            for _ in range(230):
                data.write(bytes(1_000_000))
    with open_source(str(path)) as source, pytest.raises(UnsafeCheckpointError, match="inflate to 230,000,"):
        read_container(source)


def test_a_record_that_says_it_is_a_folder_is_corrupt(whole: Path) -> None:
    data = bytearray(whole.read_bytes())
    at = data.rindex(b"archive/data/0") if b"archive/data/0" in data else data.rindex(b"/data/0") - 7
    entry = data.rindex(structures.CENTRAL_SIGNATURE, 0, at)
    data[entry + 38] |= 0x10
    with pytest.raises(CorruptCheckpointError, match="says that it is a directory"):
        read_container(bytes_source(bytes(data)))
