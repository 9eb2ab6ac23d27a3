"""Bare pickles are shown by the reader of stubs, their arrays exported, and nothing of them is loaded."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

import marlin_ckpt
from marlin_ckpt import CorruptCheckpointError, NotACheckpointError, UnsafeCheckpointError
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from tests.support.contents import contents, values

ZOO: dict[str, Any] = {
    "model": {
        "backbone.stem.w": np.arange(12, dtype=np.float32).reshape(3, 4),
        "backbone.long": np.arange(6000, dtype=np.float64).reshape(60, 100).T,
        "steps": np.array(7),
    },
    "__author__": "zoo",
    "matching_heuristics": True,
}


def dumped(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_zoos_dict_of_arrays_is_shown_verified_and_exported(tmp_path, capsys, protocol):
    path = dumped(tmp_path / "model.pkl", ZOO, protocol)
    assert main(["show", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == "pickle"
    assert {one["name"]: (one["dtype"], one["shape"]) for one in told["tensors"]} == {
        "model.backbone.stem.w": ("float32", [3, 4]), "model.backbone.long": ("float64", [100, 60]),
        "model.steps": ("int64", []),
    }  # fmt: skip
    assert told["values"]["__author__"] == "zoo"
    assert any(one["name"].startswith("numpy.") for one in told["imports"])
    verdict = verify(str(path))
    assert (verdict.status, verdict.reason) == (Status.UNVERIFIABLE, "a bare pickle, which has no checksums")
    assert main(["export", str(path), "-o", str(tmp_path / "o.safetensors")]) == 0
    found = load_file(tmp_path / "o.safetensors")
    assert {*found} == {*ZOO["model"]}
    for name, array in ZOO["model"].items():
        np.testing.assert_array_equal(found[name].numpy(), array)


def test_long_arrays_are_left_in_the_file_until_they_are_read(tmp_path):
    path = dumped(tmp_path / "a.pkl", ZOO)
    found = {one.name: one for one in contents(path).tensors}
    assert found["model.backbone.long"].pickled is None
    assert found["model.backbone.stem.w"].pickled is not None
    np.testing.assert_array_equal(values(path, found["model.backbone.long"]), ZOO["model"]["backbone.long"])


def test_a_string_of_python_2_that_is_long_is_an_array_all_the_same(tmp_path):
    data = np.arange(3000, dtype=np.float32)
    # As the pickler of Python 2 wrote the data of an array: as a string, opcode BINSTRING.
    text = b"T" + struct.pack("<i", data.nbytes) + data.tobytes()
    new = pickle.dumps({"w": data}, protocol=3)
    old = b"B" + struct.pack("<I", data.nbytes) + data.tobytes()
    assert old in new
    (tmp_path / "a.pkl").write_bytes(new.replace(old, text))
    (tensor,) = contents(tmp_path / "a.pkl").tensors
    np.testing.assert_array_equal(values(tmp_path / "a.pkl", tensor), data)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_metadata_of_a_distributed_checkpoint_is_shown(tmp_path, capsys):
    dcp.save({"layer.w": torch.ones(4, 4)}, checkpoint_id=tmp_path / "step-1", no_dist=True)
    assert main(["show", str(tmp_path / "step-1" / ".metadata"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert any("layer.w" in name for name in told["values"])
    assert "torch.distributed.checkpoint.metadata.Metadata" in {one["name"] for one in told["imports"]}


def test_nothing_of_it_is_loaded_whoever_asks(tmp_path):
    path = dumped(tmp_path / "model_1.pt", {"w": 1})
    with pytest.raises(NotACheckpointError, match="a bare pickle") as raised:
        marlin_ckpt.load(path)
    assert raised.value.hint == "torch.save the object in it, if you trust its writer"
    assert main(["salvage", str(path), "-o", str(tmp_path / "o.pt")]) == 3
    assert sorted(os.listdir(tmp_path)) == ["model_1.pt"]


def test_latest_intact_passes_a_bare_pickle_over(tmp_path, capsys):
    torch.save({"w": torch.ones(1)}, tmp_path / "model_1.pt")
    dumped(tmp_path / "model_2.pt", {"w": 1})
    assert main(["latest", str(tmp_path), "--intact"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "model_1.pt")


def test_one_that_is_cut_short_is_corrupt(tmp_path):
    path = dumped(tmp_path / "a.pkl", ZOO)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 3):
        path.write_bytes(whole[:size])
        assert verify(str(path)).status is Status.CORRUPT
        with pytest.raises(CorruptCheckpointError):
            contents(path)


def test_several_pickles_in_a_row_are_no_checkpoint(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(1) + pickle.dumps(2))
    verdict = verify(str(tmp_path / "a.pkl"))
    assert (verdict.status, "several pickles" in verdict.reason) == (Status.NOT_A_CHECKPOINT, True)


def test_a_legacy_file_whose_magic_number_is_damaged_is_no_bare_pickle(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(
        torch.full((1,), 0.0).view(torch.int32) + 46 * 2**24, path, _use_new_zipfile_serialization=False
    )
    data = bytearray(path.read_bytes())
    assert data[-1:] == b"."  # as a pickle ends
    data[5] ^= 1
    path.write_bytes(data)
    verdict = verify(str(path))
    assert verdict.status is Status.CORRUPT
    assert "legacy" in verdict.reason


def test_diff_compares_the_bytes_that_were_left_in_the_file(tmp_path, capsys):
    one, other = (
        dumped(tmp_path / f"{end}.pkl", {"seal": bytes(10_000) + bytes([end]), "w": np.full(2000, end)})
        for end in (1, 2)
    )
    assert main(["diff", str(one), str(one)]) == 0
    capsys.readouterr()
    assert main(["diff", str(one), str(other), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [value["name"] for value in told["values"]] == ["seal"]
    assert [tensor["name"] for tensor in told["tensors"] if tensor["change"] == "changed"] == ["w"]


def test_bytes_that_were_left_have_the_digest_of_bytes_that_were_read(tmp_path):
    state = {"seal": bytes(range(256)) * 40}
    dumped(tmp_path / "a.pkl", state)
    torch.save(state, tmp_path / "a.pt")
    assert main(["diff", str(tmp_path / "a.pkl"), str(tmp_path / "a.pt")]) == 0


def test_a_length_beyond_the_file_is_an_error_and_takes_no_memory(tmp_path):
    for opcode in (b"\x8e" + b"\xff" * 7 + b"\x7f", b"B\xff\xff\xff\x7f", b"\x96" + b"\xff" * 8):
        (tmp_path / "a.pkl").write_bytes(b"\x80\x05" + opcode + b"1234.")
        with pytest.raises((CorruptCheckpointError, UnsafeCheckpointError)):
            contents(tmp_path / "a.pkl")
