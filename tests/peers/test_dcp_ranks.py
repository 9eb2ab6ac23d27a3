"""Folders that 2 and 4 processes write with torch's Distributed Checkpoint, as torch itself reads them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.operations import export, one
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.weights_file import WeightsFile
from tests.support.dcp import read_all, verified
from tests.support.equality import is_same
from tests.support.foreign import real_dcp


@pytest.mark.parametrize("ranks", [2, 4])
def test_what_ranks_save_together_is_whole_and_exported_as_torch_converts_it(tmp_path, ranks):
    made = real_dcp.make_by_ranks(tmp_path, ranks=ranks)
    for name in ("dcp", "torchtitan", "dcp-in-threads", "dcp-hugging-face", "dcp-merged", "dcp-apart"):
        folder = made[name]
        assert verified(folder.path).status is Status.UNVERIFIABLE, name
        read = read_all(folder.path)
        assert all(torch.equal(read[key], weight) for key, weight in folder.weights.items()), name
    for name in ("dcp", "torchtitan", "dcp-in-threads"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp_to_torch_save(made[name].path, tmp_path / "whole.pt")
        whole = torch.load(tmp_path / "whole.pt", weights_only=False)
        with one.opened(str(made[name].path)) as checked:
            export.export(checked, WeightsFile(str(tmp_path / f"{name}.pt")), Wanted())
        others = ("optimizer", "lr_scheduler", "train_state", "dataloader")
        model = whole.get("model", {key: each for key, each in whole.items() if key not in others})
        assert is_same(dict(torch.load(tmp_path / f"{name}.pt")), dict(model)), name
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        assert verified(made["fsdp"].path / name).status is Status.UNVERIFIABLE
