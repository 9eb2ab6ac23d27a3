"""Changed bits, and hostile content with checksums that hold, in sharded checkpoints that ranks load."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

import marlin_ckpt
from marlin_ckpt import UnsafeCheckpointError
from marlin_ckpt.distributed import MarlinReader
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import MANIFEST
from tests.support import ranks
from tests.support.sharded_folders import write, write_manifest


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_no_changed_bit_is_loaded_and_all_ranks_say_the_same(directory, kind, cases):
    flips = cases(60 if kind == "ours" else 20, 150)
    work = "tests.support.flipping_ranks:load_after_flips"
    for found in ranks.run(2, work, 500, directory=directory, kind=kind, flips=flips):
        assert found["wrong"] == []
        assert found["refused"] > 0.9 * flips  # the rest of a file of torch's is padding, which nobody reads
        assert found["refused"] + found["right"] == flips
        assert found["silent"] == []
        assert found["files"] == (4 if kind == "ours" else 2)


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def read_by_torch(folder: Path) -> None:
    state = {"weight": torch.zeros(3), "epoch": 0}
    dcp.load(state, storage_reader=MarlinReader(folder), no_dist=True)


@pytest.mark.filterwarnings("ignore:torch.distributed is:UserWarning")
@pytest.mark.parametrize("read", [marlin_ckpt.load, read_by_torch])
@pytest.mark.parametrize("where", ["a value", "metadata"])
def test_nothing_is_run_that_a_checkpoint_with_right_checksums_names(tmp_path, where, read):
    harm = Harm(tmp_path / "harm")
    state = {"weight": torch.ones(3), "epoch": harm if where == "a value" else 7}
    folder = write(tmp_path / "m_500.dcp", state, ranks=1)
    if where == "metadata":
        (folder / ".metadata").write_bytes(pickle.dumps(harm))
        own = Manifest.from_json((folder / MANIFEST).read_bytes())
        write_manifest(folder, own, own.sharded)
    with pytest.raises((UnsafeCheckpointError, dcp.CheckpointException), match="mkdir"):
        read(folder)
    assert not (tmp_path / "harm").exists()
