"""`marlin-ckpt list` of files by other tools, of damaged files, and of what is no file."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from marlin_ckpt.cli.main import main

STATES = {
    "module_interface_state": {"weight": torch.ones(4)},
    "trainer_state": {},
    "trainer_backend_state": {},
}
LIGHTNING = {"epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.5.0", "state_dict": {}}


@pytest.fixture
def list_json(capsys):
    def run(directory: Path) -> list[dict]:
        code = main(["list", os.fspath(directory), "--json"])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return json.loads(out)["checkpoints"]

    return run


@pytest.fixture
def complete_column(capsys):
    def run(directory: Path) -> list[str]:
        main(["list", os.fspath(directory)])
        header, *rows = capsys.readouterr().out.splitlines()
        begin, end = header.index("complete"), header.index("file")
        return [row[begin:end].rstrip(" >") for row in rows]

    return run


def torch_save(content: object, **options) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path, **options)


def write(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data)


def write_truncated(path: Path) -> None:
    torch.save(STATES, path)
    os.truncate(path, path.stat().st_size * 2 // 3)


def write_other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")


def write_deflated(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}) * 100)


def write_appended(path: Path) -> None:
    torch.save(STATES, path)
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("make", "complete", "reason"),
    [
        pytest.param(torch_save(STATES), True, None, id="torch.save"),
        pytest.param(torch_save(LIGHTNING), True, None, id="Lightning"),
        pytest.param(
            torch_save(STATES, _use_new_zipfile_serialization=False), None, "legacy", id="legacy torch"
        ),
        pytest.param(write(b"epoch,loss\n1,0.5\n"), False, "a text file", id="text"),
        pytest.param(write(b""), False, "an empty file", id="empty"),
        pytest.param(write(pickle.dumps(LIGHTNING)), None, "a bare pickle", id="pickle"),
        pytest.param(write(os.urandom(8) + b"\0" * 100), False, "neither", id="noise"),
        pytest.param(write_truncated, False, "truncated", id="truncated"),
        pytest.param(write_other_zip, False, "a zip of something else", id="other zip"),
        pytest.param(write_deflated, True, "deflated", id="deflated"),
        pytest.param(write_appended, False, "bytes follow", id="bytes appended"),
    ],
)
def test_a_stranger_is_listed_with_what_it_has(list_json, tmp_path, make, complete, reason):
    make(tmp_path / "model_3.pt")
    (listed,) = list_json(tmp_path)
    assert (listed["index"], listed["kind"], listed["complete"]) == (3, "checkpoint", complete)
    assert listed["size_bytes"] == (tmp_path / "model_3.pt").stat().st_size
    assert reason in listed["reason"] if reason else listed["reason"] is None
    for absent in ("metrics", "run_id", "save_number", "created", "versions"):
        assert listed[absent] is None


def test_the_table_says_yes_no_or_unknown_and_why(complete_column, tmp_path):
    torch.save(STATES, tmp_path / "model_1.pt")
    (tmp_path / "model_2.pt").write_text("notes")
    torch.save(STATES, tmp_path / "model_3.pt", _use_new_zipfile_serialization=False)
    assert complete_column(tmp_path) == [
        "yes",
        "no: not a checkpoint but a text file",
        "?: a legacy torch file, which has no checksums",
    ]


def test_the_index_of_lightnings_names_is_the_step_and_they_are_in_its_order(list_json, tmp_path):
    for name in ("epoch=3-step=100", "epoch=3-step=20", "last"):
        torch.save(LIGHTNING, tmp_path / f"{name}.pt")
    listed = [(one["index"], one["kind"], one["complete"]) for one in list_json(tmp_path)]
    assert listed == [(20, "checkpoint", True), (100, "checkpoint", True), (None, "other", True)]


def test_our_own_file_is_known_by_its_manifest_under_any_name(list_json, tmp_path, make_checkpointer):
    path = make_checkpointer().save_model({"weight": torch.ones(2)}, 5)
    os.rename(path, tmp_path / "best.pt")
    (listed,) = list_json(tmp_path)
    assert (listed["kind"], listed["complete"]) == ("model", True)


def test_a_flipped_bit_in_the_data_is_not_seen_since_the_data_is_not_read(
    list_json, make_checkpointer, make_checkpoint
):
    path = Path(make_checkpointer().save(make_checkpoint(), 0))
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 1.0) * 8)] ^= 1
    path.write_bytes(data)
    assert list_json(path.parent)[0]["complete"] is True


@pytest.mark.parametrize("remaining", [1, 100, -1000, -23, -22, -1])
def test_a_truncated_file_is_not_complete_wherever_it_was_cut(
    list_json, make_checkpointer, make_checkpoint, remaining
):
    path = Path(make_checkpointer().save(make_checkpoint(), 0))
    os.truncate(path, path.stat().st_size + remaining if remaining < 0 else remaining)
    assert list_json(path.parent)[0]["complete"] is False


def test_a_fifo_a_directory_and_a_dangling_link_are_no_checkpoints_and_nothing_waits_on_them(
    list_json, tmp_path
):
    os.mkfifo(tmp_path / "model_1.pt")
    (tmp_path / "model_2.pt").mkdir()
    (tmp_path / "model_3.pt").symlink_to("nowhere")
    (tmp_path / "model_4.pt").symlink_to("model_4.pt")
    assert list_json(tmp_path) == []


def test_a_link_to_a_checkpoint_is_listed_under_its_own_name(
    list_json, make_checkpointer, make_checkpoint, tmp_path
):
    target = make_checkpointer().save(make_checkpoint(loss=0.5), 3)
    (tmp_path / "model_8.pt").symlink_to(target)
    (listed,) = list_json(tmp_path)
    assert (listed["path"], listed["index"]) == (str(tmp_path / "model_8.pt"), 8)
    assert (listed["complete"], listed["metrics"]) == (True, {"loss": 0.5})


def write_infinite_index(path: Path) -> None:
    values = '"kind": "checkpoint", "index": 1e999, "created": "", "run_id": "", "save_number": 1'
    manifest = f'{{"format_version": 1, {values}, "metrics": {{}}, "versions": {{}}, "records": []}}'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/.marlin/manifest.json", manifest)


def write_deep_manifest(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/.marlin/manifest.json", "[" * 200_000)


def write_record_beyond_every_file(path: Path) -> None:
    info = zipfile.ZipInfo("a/data.pkl")
    info.extra = struct.pack("<HHQ", 1, 8, 1 << 63)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, b"")
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 42 : entry + 46] = b"\xff" * 4  # "see the zip64 extra field", APPNOTE.TXT 4.4.16
    path.write_bytes(data)


@pytest.mark.parametrize("make", [write_infinite_index, write_deep_manifest, write_record_beyond_every_file])
def test_a_hostile_file_spoils_no_line_but_its_own(list_json, tmp_path, make):
    torch.save(STATES, tmp_path / "model_1.pt")
    make(tmp_path / "model_2.pt")
    assert [(one["index"], one["complete"]) for one in list_json(tmp_path)] == [(1, True), (2, False)]


def test_a_file_that_may_not_be_read_is_listed_as_unknown(list_json, users_directory):
    (users_directory / "model_1.pt").write_bytes(b"secret")
    (users_directory / "model_1.pt").chmod(0)
    (listed,) = list_json(users_directory)
    assert (listed["index"], listed["complete"]) == (1, None)
    assert listed["reason"] == "cannot be read: Permission denied"
