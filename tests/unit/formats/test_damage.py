"""Damage: a changed, missing or added byte is never loaded silently."""

from __future__ import annotations

import io
import itertools
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from marlin_ckpt import BadFileError, Checkpoint, CorruptCheckpointError, DefaultCheckpointer


def _payload() -> dict[str, object]:
    weights = torch.arange(100.0)
    return {
        "module_interface_state": {
            "weight": weights,
            "view": weights[3:9],
            "flags": torch.tensor([True, False]),
        },
        "trainer_state": {"last_epoch": 3, "lr": 0.125, "note": "warm"},
        "trainer_backend_state": None,
    }


def _text(checkpoint: Checkpoint) -> str:
    torch.set_printoptions(profile="full")
    try:
        return repr(checkpoint)
    finally:
        torch.set_printoptions(profile="default")


@pytest.fixture
def ours(make_checkpointer: Callable[..., DefaultCheckpointer]) -> Path:
    """A file of ours of about 3 kB."""
    checkpoint = Checkpoint(**_payload(), metrics={"loss": 0.5})
    return Path(make_checkpointer().save(checkpoint, 1))


@pytest.fixture
def by_torch(tmp_path: Path) -> Path:
    """A file by `torch.save`, where `make_checkpointer` loads from."""
    (tmp_path / "checkpoints").mkdir()
    torch.save(_payload(), tmp_path / "checkpoints" / "model_1.pt")
    return tmp_path / "checkpoints" / "model_1.pt"


def _flip(path: Path, offset: int, mask: int) -> None:
    fd = os.open(path, os.O_RDWR)
    byte = os.pread(fd, 1, offset)[0]
    os.pwrite(fd, bytes([byte ^ mask]), offset)
    os.close(fd)


@pytest.mark.parametrize("fixture", ["ours", "by_torch"])
def test_a_flipped_bit_at_any_place_of_a_file_is_refused_or_changes_nothing(
    request, make_checkpointer, cases, fixture
):
    path: Path = request.getfixturevalue(fixture)
    checkpointer = make_checkpointer()
    expected = _text(checkpointer.load())
    wrong = {}
    masks = (1, 2, 4, 8, 16, 32, 64, 128, 255)
    for offset in range(0, path.stat().st_size, cases(2, 1)):
        first = offset % len(masks)
        for mask in [*masks[first:], *masks[:first]][: cases(1, len(masks))]:
            _flip(path, offset, mask)
            try:
                if _text(checkpointer.load()) != expected:
                    wrong[offset, mask] = "loaded something else"
            except BadFileError:
                pass
            except Exception as error:  # noqa: BLE001 - the wrong kind of error is what this looks for
                wrong[offset, mask] = repr(error)
            _flip(path, offset, mask)
    assert wrong == {}


def _record_range(path: Path, name: str) -> range:
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = next(one for one in archive.infolist() if one.filename.partition("/")[2] == name)
    lengths = content[info.header_offset + 26 : info.header_offset + 30]
    start = info.header_offset + 30 + sum(struct.unpack("<HH", lengths))
    return range(start, start + info.file_size)


@pytest.mark.parametrize("record", ["data.pkl", "data/0", "data/1", "version", "byteorder"])
@pytest.mark.parametrize("fixture", ["ours", "by_torch"])
def test_any_changed_byte_of_a_records_data_is_refused_by_its_checksum(
    request, make_checkpointer, fixture, record
):
    path: Path = request.getfixturevalue(fixture)
    checkpointer = make_checkpointer()
    for offset in _record_range(path, record):
        _flip(path, offset, 0x10)
        with pytest.raises(CorruptCheckpointError, match=f"the CRC of record .*/{record} does not hold"):
            checkpointer.load()
        _flip(path, offset, 0x10)
    assert checkpointer.load().trainer_state == _payload()["trainer_state"]


def test_any_changed_byte_of_the_manifest_is_refused(ours, make_checkpointer):
    checkpointer = make_checkpointer()
    for offset in _record_range(ours, ".marlin/manifest.json"):
        _flip(ours, offset, 0x01)
        with pytest.raises(
            CorruptCheckpointError, match=r"the CRC of record archive/.marlin/manifest.json does not hold"
        ):
            checkpointer.load()
        _flip(ours, offset, 0x01)


@pytest.mark.parametrize("fixture", ["ours", "by_torch"])
def test_a_file_cut_at_any_place_is_refused(request, make_checkpointer, fixture):
    path: Path = request.getfixturevalue(fixture)
    checkpointer = make_checkpointer()
    for size in range(path.stat().st_size - 1, -1, -1):
        os.truncate(path, size)
        with pytest.raises(BadFileError):
            checkpointer.load()


@pytest.mark.parametrize("fixture", ["ours", "by_torch"])
@pytest.mark.parametrize(
    "added", [b"\0", b"x" * 100, b"PK\x05\x06" + bytes(18)], ids=["byte", "text", "an end"]
)
def test_a_file_with_bytes_added_is_refused(request, make_checkpointer, fixture, added: bytes):
    path: Path = request.getfixturevalue(fixture)
    with path.open("ab") as file:
        file.write(added)
    with pytest.raises(CorruptCheckpointError):
        make_checkpointer().load()


def test_two_records_swapped_with_one_another_are_refused(ours, make_checkpointer):
    content = bytearray(ours.read_bytes())
    places = _record_range(ours, "data/0")
    half = len(places) // 2
    first, second = slice(places.start, places.start + half), slice(places.start + half, places.stop)
    content[first], content[second] = content[second], content[first]
    ours.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match="data/0"):
        make_checkpointer().load()


@pytest.mark.parametrize("fixture", ["ours", "by_torch"])
def test_entries_of_the_directory_in_another_order_are_refused(request, make_checkpointer, fixture):
    path: Path = request.getfixturevalue(fixture)
    whole = path.read_bytes()
    first, second, third = (at.start() for at in itertools.islice(re.finditer(b"PK\x01\x02", whole), 3))
    path.write_bytes(whole[:first] + whole[second:third] + whole[first:second] + whole[third:])
    with pytest.raises(CorruptCheckpointError, match="end of the zip directory is damaged"):
        make_checkpointer().load()


def test_a_size_in_the_manifest_that_is_no_integer_is_refused(ours, make_checkpointer):
    buffer = io.BytesIO()
    with zipfile.ZipFile(ours) as source, zipfile.ZipFile(buffer, "w") as target:
        for info in source.infolist():
            data, is_manifest = source.read(info), info.filename.endswith("manifest.json")
            target.writestr(
                info.filename, data.replace(b'"size":1}', b'"size":1.0}') if is_manifest else data
            )
    ours.write_bytes(buffer.getvalue())
    with pytest.raises(CorruptCheckpointError, match="not those that the manifest lists"):
        make_checkpointer().load()


def test_records_added_or_taken_by_another_tool_are_seen_by_the_manifest(ours, make_checkpointer):
    buffer = io.BytesIO()
    with zipfile.ZipFile(ours) as source, zipfile.ZipFile(buffer, "w") as target:
        for info in source.infolist():
            if not info.filename.endswith("/byteorder"):
                target.writestr(info.filename, source.read(info))
    ours.write_bytes(buffer.getvalue())
    with pytest.raises(CorruptCheckpointError, match="not those that the manifest lists"):
        make_checkpointer().load()
