"""`verify` and `inspect`: the verdict on one checkpoint and what it holds, as values, without torch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import safetensors.torch
import torch

import marlin_ckpt
from marlin_ckpt import CheckpointNotFoundError, MarlinError, NotACheckpointError, Status
from marlin_ckpt.formats.torch.writer import write_file
from tests.support.oracle import MANIFEST
from tests.support.pair_layout import registered, write_pair
from tests.support.specimens import SPECIMENS

_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import marlin_ckpt
print(marlin_ckpt.verify(sys.argv[1]).status, [one.name for one in marlin_ckpt.inspect(sys.argv[1]).tensors])
"""


@pytest.fixture
def path(tmp_path):
    write_file(tmp_path / "model_7.pt", {"weight": torch.ones(50), "epoch": 3}, MANIFEST)
    return tmp_path / "model_7.pt"


def test_a_whole_file_is_intact_and_a_damaged_one_is_corrupt_with_its_tensors(path):
    found = marlin_ckpt.verify(path)
    assert (found.path, found.status, found.size_bytes) == (str(path), Status.INTACT, path.stat().st_size)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x00\x00\x80\x3f", b"\x00\x00\x80\x4f", 1))
    found = marlin_ckpt.verify(path)
    assert (found.status, found.tensors) == (Status.CORRUPT, ("weight",))


def test_what_is_no_checkpoint_has_a_verdict_and_what_is_not_there_is_an_error(tmp_path):
    (tmp_path / "a.pt").write_text("<html>")
    assert marlin_ckpt.verify(tmp_path / "a.pt").status is Status.NOT_A_CHECKPOINT
    with pytest.raises(NotACheckpointError):
        marlin_ckpt.inspect(tmp_path / "a.pt")
    for ask in (marlin_ckpt.verify, marlin_ckpt.inspect):
        with pytest.raises(CheckpointNotFoundError):
            ask(tmp_path / "b.pt")


def test_a_folder_that_is_one_checkpoint_has_one_verdict(tmp_path):
    with registered():
        folder = write_pair(tmp_path, 4)
        assert marlin_ckpt.verify(folder).status is Status.INTACT
        (folder / "weights.bin").write_bytes(b"other")
        assert marlin_ckpt.verify(f"{folder}/").status is Status.CORRUPT


def test_a_directory_is_no_checkpoint_and_the_hint_says_what_to_ask(path):
    with pytest.raises(MarlinError, match="not one checkpoint") as caught:
        marlin_ckpt.verify(path.parent)
    assert f"marlin-ckpt verify {path.parent}" in caught.value.hint
    with pytest.raises(MarlinError, match="is a directory") as caught:
        marlin_ckpt.inspect(path.parent)
    assert "model_7.pt" in caught.value.hint


def test_the_contents_of_a_file_are_its_tensors_its_values_and_its_manifest(path):
    found = marlin_ckpt.inspect(path)
    assert [(one.name, one.dtype, one.shape) for one in found.tensors] == [("weight", "float32", (50,))]
    assert [(one.key, one.value) for one in found.root.children] == [("weight", None), ("epoch", 3)]
    assert (found.manifest.index, found.format) == (7, marlin_ckpt.Format.ZIP)


def test_the_contents_of_a_large_file_are_shown_in_a_line(path):
    write_file(path, [{"a": torch.ones(1)}] * 1000, MANIFEST)
    assert len(repr(marlin_ckpt.inspect(path))) < 1500


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", SPECIMENS.values(), ids=SPECIMENS)
def test_contents_can_be_pickled_whatever_the_file_holds(tmp_path, make):
    torch.save(make(), tmp_path / "a.pt")
    try:
        found = marlin_ckpt.inspect(tmp_path / "a.pt")
    except MarlinError:
        return  # as `show`, it does not read every object that code of its own makes again
    again = pickle.loads(pickle.dumps(found))
    assert (again.tensors, again.imports, repr(again)) == (found.tensors, found.imports, repr(found))


def test_verdicts_and_the_contents_of_any_format_can_be_pickled(path, tmp_path):
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"note": "text"})
    torch.save({"a": torch.ones(2)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for one in (path, tmp_path / "a.safetensors", tmp_path / "b.pt"):
        verdict, contents = marlin_ckpt.verify(one), marlin_ckpt.inspect(one)
        assert pickle.loads(pickle.dumps(verdict)) == verdict
        assert pickle.loads(pickle.dumps(contents)).tensors == contents.tensors


def test_neither_needs_torch(path, repository):
    environment = {**os.environ, "PYTHONPATH": os.fspath(repository)}
    command = [sys.executable, "-W", "error", "-c", _WITHOUT_TORCH, path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("intact ['weight']\n", "")
