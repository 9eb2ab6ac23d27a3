"""A file is called intact only when every byte is accounted for."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.directory.newest import newest_intact
from marlin_ckpt.entries import Entry, Item
from marlin_ckpt.errors import CheckpointNotFoundError, CorruptCheckpointError
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.torch.reader import read_file
from marlin_ckpt.formats.verdicts import Inspection, Status, Verdict
from marlin_ckpt.formats.verification import verify

STATE = {"layer": {"weight": torch.arange(2000.0), "bias": torch.arange(5000.0, 5300.0)}}


def save(directory: Path, index: int = 1) -> Path:
    arguments = DefaultCheckpointerArguments(save_dir=str(directory), model_state_save_dir=None)
    return Path(DefaultCheckpointer(arguments).save(Checkpoint(STATE, {"epoch": 1}, {}), index))


def test_the_tensors_that_are_damaged_are_named(tmp_path: Path) -> None:
    path = save(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(torch.arange(5000.0, 5300.0).numpy().tobytes()[400:600])
    data[at] ^= 1
    path.write_bytes(data)
    verdict = verify(str(path))
    assert verdict.status is Status.CORRUPT
    assert verdict.tensors == ("module_interface_state.layer.bias",)
    assert "data/1" in verdict.reason


def write_safetensors(path: Path, header: dict[str, object], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def span(start: int, stop: int) -> dict[str, object]:
    return {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"a": span(0, 4), "b": span(4, 10), "__metadata__": {"x": "y"}}, Status.UNVERIFIABLE),
        ({"a": span(0, 4), "b": span(5, 10)}, Status.CORRUPT),
        ({"a": span(0, 6), "b": span(4, 10)}, Status.CORRUPT),
        ({"a": span(0, 9)}, Status.CORRUPT),
        ({"a": span(0, 11)}, Status.CORRUPT),
        ({"a": {"dtype": "U8"}}, Status.CORRUPT),
    ],
    ids=["whole", "hole", "overlap", "too long", "truncated", "no offsets"],
)
def test_a_safetensors_file_is_checked_by_its_structure_and_said_to_have_no_checksums(
    tmp_path: Path, header: dict[str, object], status: Status
) -> None:
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, header, bytes(10))
    verdict = verify(str(path))
    assert verdict.status is status
    assert ("no checksums" in verdict.reason) == (status is Status.UNVERIFIABLE)


@pytest.mark.parametrize("status", [None, *Status])
def test_a_structure_is_complete_or_not_or_cannot_tell_where_there_are_no_checksums(status):
    sound = (Status.COMPLETE, Status.INTACT, Status.REPACKED)
    expected = None if status in (None, Status.UNVERIFIABLE) else status in sound
    looked_at = Inspection(Entry("", Item("model_1.pt", 0, 0, ()), None), status)
    assert looked_at.complete is expected


def test_a_file_that_is_removed_while_it_is_found_corrupt_has_no_size(tmp_path, monkeypatch):
    path = save(tmp_path)

    def removed(*_, **__):
        path.unlink()
        raise CorruptCheckpointError("damaged", str(path))

    monkeypatch.setattr(verification, "examine", removed)
    assert verify(str(path)) == Verdict(str(path), Status.CORRUPT, "damaged")


def without_checksums(path: Path) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(STATE, path)
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)


@pytest.mark.parametrize(
    ("write", "status"),
    [
        (lambda path: torch.save(STATE, path), Status.INTACT),
        (lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False), Status.UNVERIFIABLE),
        (without_checksums, Status.UNVERIFIABLE),
        (lambda path: path.write_text("notes"), Status.NOT_A_CHECKPOINT),
        (lambda path: path.touch(), Status.NOT_A_CHECKPOINT),
    ],
    ids=["torch.save", "legacy", "without checksums", "text", "empty"],
)
def test_files_of_other_tools_get_the_verdict_that_they_allow(
    tmp_path: Path, write: Callable[[Path], None], status: Status
) -> None:
    path = tmp_path / "x.pt"
    write(path)
    assert verify(str(path)).status is status


def test_a_single_flipped_bit_in_the_data_of_a_torch_save_file_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(STATE, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(5000.0, 5300.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    assert verify(str(path)).tensors == ("layer.bias",)


def test_the_bytes_that_are_told_on_the_way_are_those_of_all_records(tmp_path: Path) -> None:
    told: list[int] = []
    path = save(tmp_path)
    verify(str(path), told.append)
    assert 2300 * 4 <= sum(told) <= path.stat().st_size


def test_files_without_checksums_or_without_a_target_are_not_the_newest_intact_one(tmp_path: Path) -> None:
    whole = save(tmp_path)
    without_checksums(tmp_path / "model_2.pt")
    (tmp_path / "model_3.pt").symlink_to("nowhere")
    skipped: list[str] = []
    found = newest_intact(lambda: newest_first(tmp_path, "model"), lambda path, _: skipped.append(path))
    assert found is not None
    assert found.path == str(whole)
    assert skipped == [str(tmp_path / "model_2.pt")]


def test_a_newer_file_that_came_while_one_vanished_is_found(tmp_path: Path) -> None:
    older, newer = save(tmp_path), tmp_path / "model_4.pt"
    shutil.copy(older, newer)
    new, old = newest_first(tmp_path, "model")
    looks = [[new._replace(item=new.item._replace(name="model_3.pt")), old], [new, old]]
    assert newest_intact(lambda: looks.pop(0)) == new


def test_a_missing_file_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="none"):
        verify(str(tmp_path / "none.pt"))


def test_the_command_exits_3_when_any_file_is_corrupt_and_names_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, torn = save(tmp_path, 1), save(tmp_path, 2)
    torn.write_bytes(torn.read_bytes()[:-9])
    (tmp_path / "notes.txt").write_text("not looked at")
    assert main(["verify", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"intact  {whole}"
    assert out.splitlines()[1].startswith(f"corrupt  {torn}  (truncated")
    assert err.startswith("2 files, ")
    assert main(["verify", "--quiet", str(whole)]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_command_takes_several_paths_and_prints_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = save(tmp_path / "a")
    (tmp_path / "b.pt").write_text("notes")
    assert main(["verify", "--json", "--recursive", str(tmp_path / "a"), str(tmp_path / "b.pt")]) == 3
    files = json.loads(capsys.readouterr().out)["files"]
    assert [(one["path"], one["status"]) for one in files] == [
        (str(whole), "intact"),
        (str(tmp_path / "b.pt"), "not a checkpoint"),
    ]
    assert files[0].keys() == {"path", "status", "reason", "hint", "tensors", "size_bytes", "copies"}


def test_a_missing_path_exits_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "none.pt")]) == 4
    assert capsys.readouterr().out == ""


def test_latest_intact_names_the_newest_file_that_verifies_and_says_why_others_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in (1, 2, 10):
        save(tmp_path, index)
    torn = tmp_path / "model_10.pt"
    torn.write_bytes(torn.read_bytes()[:-9])
    assert main(["latest", str(tmp_path), "--intact"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'model_2.pt'}\n"
    assert err.startswith(f"passed over {torn}: corrupt: truncated")
    for index in (1, 2):
        (tmp_path / f"model_{index}.pt").write_text("torn")
    assert main(["latest", str(tmp_path), "--intact"]) == 4


def test_a_file_by_torch_of_more_than_4_gib_is_intact(
    tmp_path: Path, cases: Callable[[int, int], int]
) -> None:
    if not cases(0, 1):
        pytest.skip("writes 5 GB: --campaign runs it")
    path = tmp_path / "large.pt"
    torch.save({str(number): torch.zeros(300_000_000, dtype=torch.int8) for number in range(17)}, path)
    assert verify(str(path)).status is Status.INTACT


@pytest.mark.parametrize("cut", [1, 8, 500, 1188, 1250])
def test_a_legacy_file_that_was_cut_short_is_corrupt_wherever_it_ends(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "old.pth"
    torch.save({"w": torch.ones(250), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert verify(str(path)).status is Status.UNVERIFIABLE
    os.truncate(path, path.stat().st_size - cut)
    verdict = verify(str(path))
    assert verdict.status is Status.CORRUPT
    assert "truncated" in verdict.reason or "ends too early" in verdict.reason


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_legacy_file_without_the_data_of_a_storage_is_corrupt_and_not_loaded(tmp_path, weights_only):
    # torch.load makes such a tensor of whatever lies in the memory that it is given.
    path = tmp_path / "old.pth"
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"]q\x00X")] + b"]q\x00.")  # the keys of the storages: none
    verdict = verify(str(path))
    assert (verdict.status, "a storage is missing" in verdict.reason) == (Status.CORRUPT, True)
    with pytest.raises(CorruptCheckpointError, match="a storage is missing"):
        read_file(path, weights_only=weights_only, log=lambda _: None)


@pytest.mark.parametrize("named", [1 << 40, 251], ids=["more than there is memory", "one more"])
@pytest.mark.parametrize("weights_only", [True, False])
def test_a_legacy_file_that_names_a_larger_storage_than_it_holds_is_corrupt_and_not_loaded(
    tmp_path: Path, named: int, weights_only: bool
) -> None:
    path = tmp_path / "old.pth"
    torch.save({"w": torch.ones(250)}, path, _use_new_zipfile_serialization=False)
    told = pickle.BININT1 + b"\xfa" + pickle.NONE  # the number of elements, and no view
    data = path.read_bytes()
    assert data.count(told) == 1
    path.write_bytes(data.replace(told, pickle.LONG1 + b"\x06" + named.to_bytes(6, "little") + pickle.NONE))
    assert verify(str(path)).status is Status.CORRUPT
    with pytest.raises(CorruptCheckpointError, match="another size"):
        read_file(path, weights_only=weights_only, log=lambda _: None)


@pytest.mark.parametrize(
    ("dtype", "shape", "fits"),
    [
        ("F32", [2], 8), ("BF16", [2, 2], 8), ("I64", [0, 3], 0), ("BOOL", [], 1), ("F8_E4M3", [3], 3),
        ("F4", [2, 8], 8), ("F6_E2M3", [8], 6), ("F6_E3M2", [4, 2], 6), ("C64", [2], 16),
    ],
)  # fmt: skip
def test_a_safetensors_tensor_whose_bytes_do_not_fit_its_shape_is_corrupt(
    tmp_path: Path, dtype: str, shape: list[int], fits: int
) -> None:
    path = tmp_path / "weights.safetensors"
    for size, status in ((fits, Status.UNVERIFIABLE), (fits + 2, Status.CORRUPT)):
        write_safetensors(
            path, {"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, bytes(size)
        )
        assert verify(str(path)).status is status


def test_a_dtype_that_a_later_safetensors_has_is_not_called_damage(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": {"dtype": "F5_NEW", "shape": [8], "data_offsets": [0, 5]}}, bytes(5))
    assert verify(str(path)).status is Status.UNVERIFIABLE
