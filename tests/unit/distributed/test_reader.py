"""MarlinReader and `load` in one process: hostile and damaged folders, and what is read of a whole one."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

import marlin_ckpt
from marlin_ckpt.distributed import MarlinReader
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.reads import folder
from marlin_ckpt.distributed.saving import save_sharded
from marlin_ckpt.errors import BadFileError, MarlinError, UnsafeCheckpointError
from tests.support.dcp import flip
from tests.support.loading_ranks import differences, manifest

_FLIPS = 75
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is|TypedStorage is:UserWarning")


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def _state() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "module_interface_state": {
            "weight": torch.randn(700, 900), "bias": torch.randn(7).bfloat16(), "scalar": torch.tensor(2),
            "small": torch.randn(5).to(torch.float8_e4m3fn), "complex": torch.randn(2, dtype=torch.complex64),
            "none": torch.zeros(0, 3), "turned": torch.randn(4, 6).t(), "flags": torch.tensor([True, False]),
        },
        "trainer_state": {"epoch": 3, "rates": [0.1, 0.2]},
        "trainer_backend_state": {"scale": 0.5},
    }  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("folders")
    save_sharded(_state(), place / "ours_3.dcp", Ranks.alone(), SavePlans(), manifest())
    dcp.save(_state(), checkpoint_id=place / "stock_3.dcp", no_dist=True)
    return place


def _read_by_torch(place: Path) -> dict[str, Any]:
    state = {key: dict(one) for key, one in _state().items()}
    state["module_interface_state"] = {
        key: torch.empty(one.shape, dtype=one.dtype) for key, one in state["module_interface_state"].items()
    }
    dcp.load(state, storage_reader=MarlinReader(place), no_dist=True)
    return state


@pytest.mark.parametrize(
    ("name", "many_pieces"), [("ours_3.dcp", folder._MANY_PIECES), ("ours_3.dcp", 0), ("stock_3.dcp", 0)]
)
def test_every_kind_of_tensor_comes_back_bit_for_bit(folders, monkeypatch, name, many_pieces):
    monkeypatch.setattr(folder, "_MANY_PIECES", many_pieces)
    assert differences(marlin_ckpt.load(folders / name), _state()) == []
    assert differences(_read_by_torch(folders / name), _state()) == []


@pytest.mark.parametrize("name", ["ours_3.dcp", "stock_3.dcp"])
def test_no_flip_in_a_file_loads_another_value(folders, tmp_path, name):
    chance = random.Random(name)
    place = tmp_path / name
    shutil.copytree(folders / name, place)
    files = [one for one in place.rglob("*") if one.is_file()]
    found = 0
    for number in range(_FLIPS):
        file = files[number % len(files)]
        at = chance.randrange(file.stat().st_size)
        flip(file, at)
        for read in (marlin_ckpt.load, _read_by_torch):
            try:
                loaded = read(place)
            except (MarlinError, CheckpointException):
                found += 1
            else:
                # Of a stock folder's metadata nothing proves a byte: it may name less, and nothing else.
                lost = differences(loaded, _state())
                assert lost == [] or (file.name == ".metadata" and name == "stock_3.dcp"), (
                    file.name,
                    at,
                    lost,
                )
        flip(file, at)
    assert found > _FLIPS


@pytest.mark.parametrize("read", [marlin_ckpt.load, _read_by_torch])
def test_nothing_of_a_hostile_value_is_run(tmp_path, read):
    state = _state()
    state["trainer_state"]["epoch"] = Hostile(tmp_path / "made")
    dcp.save(state, checkpoint_id=tmp_path / "stock_3.dcp", no_dist=True)
    with pytest.raises((UnsafeCheckpointError, CheckpointException), match="mkdir"):
        read(tmp_path / "stock_3.dcp")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("read", [marlin_ckpt.load, _read_by_torch])
def test_nothing_of_hostile_metadata_is_run(folders, tmp_path, read):
    shutil.copytree(folders / "stock_3.dcp", tmp_path / "stock_3.dcp")
    (tmp_path / "stock_3.dcp" / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    with pytest.raises((UnsafeCheckpointError, CheckpointException), match="mkdir"):
        read(tmp_path / "stock_3.dcp")
    assert not (tmp_path / "made").exists()


def test_a_folder_that_is_no_sharded_checkpoint_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadFileError, match="not a sharded checkpoint"):
        MarlinReader(tmp_path).read_metadata()
