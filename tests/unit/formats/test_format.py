"""Files are told apart by their structure, and what is no checkpoint is named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.errors import CorruptCheckpointError, NotACheckpointError
from marlin_ckpt.formats.format import Foreign, Format, detect, format_of
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.storage.local.files import open_source


class InMemory:
    """The bytes of a file as a `Source`."""

    path = "a file"

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = self._data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


def safetensors_file(header_bytes: int) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", header_bytes) + header.ljust(header_bytes) + bytes(8)


def saved(**options: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"w": torch.ones(3)}, file, **options)
    return file.getvalue()


def packed_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a"), io.BytesIO())
    return file.getvalue()


def numpy_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def numpy_archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
FOREIGN = {
    "an empty file": b"",
    "a git-lfs pointer": POINTER,
    "a web page": b"<!DOCTYPE html>\n<html><body>404</body></html>",
    "a gzip file": gzip.compress(b"x"),
    "a bzip2 file": bz2.compress(b"x"),
    "an xz file": lzma.compress(b"x"),
    "a Zstandard file": b"\x28\xb5\x2f\xfd" + bytes(9),
    "an lz4 file": b"\x04\x22\x4d\x18" + bytes(9),
    "a 7z file": b"7z\xbc\xaf\x27\x1c" + bytes(30),
    "an empty zip": b"PK\x05\x06" + bytes(18),
    "a NumPy archive": numpy_archive(),
    "an ONNX model or another protobuf": b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(20),
    "a program or a library": b"\x7fELF\x02\x01\x01" + bytes(20),
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(20),
    "an XML file": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a JSON file": b'{"error": "Not Found"}',
    "an index of weights": b'{"metadata": {}, "weight_map": {"w": "model-00001-of-00002.safetensors"}}',
    "an SQLite database": b"SQLite format 3\0" + bytes(80),
    "a tar file": packed_tar(),
    "a GGUF file": b"GGUF\x03\x00\x00\x00" + bytes(50),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(50),
    "a NumPy file": numpy_file(),
    "a text file": "notes on the run, in Zürich\n".encode(),
    "a file that begins with zeros": bytes(5000),
    "neither a zip nor a torch file": b"\x00\x01\x02 some bytes",
}


@pytest.mark.parametrize(("what", "data"), FOREIGN.items(), ids=FOREIGN)
def test_what_is_no_checkpoint_is_named_by_its_first_bytes(what: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(data)
    verdict = verify(os.fspath(path))
    assert (verdict.status, verdict.reason) == (Status.NOT_A_CHECKPOINT, f"not a checkpoint but {what}")
    assert verdict.hint or what in ("a program or a library", "a PNG image")


@pytest.mark.parametrize("data", [packed_tar(), gzip.compress(packed_tar())], ids=["tar", "gzip"])
def test_a_tar_is_called_what_its_name_says_it_is(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(data)
    verdict = verify(os.fspath(path))
    assert verdict.reason == "not a checkpoint but a .nemo file, which is a tar"
    assert "tar -xf" in verdict.hint


def test_what_is_json_by_its_name_is_no_message_of_a_server(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_bytes(b'{"global_step": 4}')
    verdict = verify(os.fspath(path))
    assert verdict.status is Status.NOT_A_CHECKPOINT
    assert "name the folder" in verdict.hint


def test_a_safetensors_file_that_ends_in_its_header_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_file(200)[:100])
    verdict = verify(os.fspath(path))
    assert (verdict.status, "truncated" in verdict.reason) == (Status.CORRUPT, True)


@pytest.mark.parametrize("byte", range(256))
def test_control_characters_but_tab_and_line_ends_make_a_file_binary(byte: int) -> None:
    is_text = byte in b"\t\n\r" or (byte >= ord(" ") and byte != 0x7F)
    found = detect(InMemory(b"notes" + bytes([byte]) + b" on the run"))
    assert isinstance(found, Foreign)
    assert found.what == ("a text file" if is_text else "neither a zip nor a torch file")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"a line\nand\ta\r\nnother", "a text file"),
        ("Zürich — 東京".encode(), "a text file"),
        (b"caf\xe9 in Latin-1", "a text file"),
        (b"a text with\x00a zero", "neither a zip nor a torch file"),
        (b"a text with\x1b[2J an escape", "neither a zip nor a torch file"),
        (b"a text with\x7f a delete", "neither a zip nor a torch file"),
        (b"x" * 263 + b"\x00", "neither a zip nor a torch file"),
    ],
)
def test_a_text_is_told_from_bytes_by_its_control_characters(data: bytes, what: str) -> None:
    found = detect(InMemory(data))
    assert isinstance(found, Foreign)
    assert found.what == what


def test_each_format_is_known_by_its_structure() -> None:
    assert detect(InMemory(saved())) is Format.ZIP
    assert detect(InMemory(saved(_use_new_zipfile_serialization=False))) is Format.LEGACY
    assert detect(InMemory(safetensors_file(120))) is Format.SAFETENSORS
    assert detect(InMemory(b"\x80\x04}\x94.")) is Format.PICKLE


@given(st.integers(100, 3000))
def test_a_safetensors_file_is_one_whatever_its_first_byte_is(length: int) -> None:
    assert detect(InMemory(safetensors_file(length))) is Format.SAFETENSORS


def test_a_brace_at_the_ninth_byte_alone_makes_no_safetensors_file() -> None:
    assert isinstance(detect(InMemory(b"12345678{ is a text")), Foreign)


def test_a_checkpoint_whose_first_bytes_are_damaged_is_corrupt_and_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"\x00\x00\x00\x00" + saved()[4:])
    with open_source(os.fspath(path)) as source, pytest.raises(CorruptCheckpointError, match="first bytes"):
        format_of(source)


def test_the_error_says_what_to_do_about_a_pointer() -> None:
    with pytest.raises(NotACheckpointError) as caught:
        format_of(InMemory(POINTER))
    assert (caught.value.where, caught.value.hint) == ("a file", "`git lfs pull` fetches the file")
