"""What export and diff make of folders of torch's Distributed Checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from marlin_ckpt.operations import export, one
from marlin_ckpt.operations.diff import compare
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.weights_file import WeightsFile
from tests.support.equality import is_same
from tests.support.foreign import dcp_folders, real_dcp
from tests.support.foreign.corpus import CHECKPOINTS

STATES = {
    "dcp": "model.", "torchtitan": "", "megatron": "", "lightning-sharded": "state_dict.",
    "lightning-fsdp": "model.", "dcp-old": "model.",
}  # fmt: skip


def exported(folder: Path, target: Path, **wanted) -> Path:
    with one.opened(str(folder)) as checked:
        export.export(checked, WeightsFile(str(target)), Wanted(**wanted))
    return target


@pytest.mark.parametrize("name", STATES)
def test_export_writes_the_model_alone_and_whole(tmp_path, name):
    made = CHECKPOINTS[name](tmp_path)
    found = load_file(exported(made.path, tmp_path / "model.safetensors"))
    expected = {key.removeprefix(STATES[name]): weight for key, weight in made.weights.items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], weight) for key, weight in expected.items())


def test_export_writes_what_torchs_own_conversion_does(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = real_dcp.make_alone(tmp_path)
        for name in ("dcp", "torchtitan", "dcp-in-threads"):
            dcp_to_torch_save(made[name].path, tmp_path / f"{name}-whole.pt")
            whole = torch.load(tmp_path / f"{name}-whole.pt", weights_only=False)
            found = torch.load(exported(made[name].path, tmp_path / f"{name}.pt"))
            others = ("optimizer", "lr_scheduler", "train_state", "dataloader")
            model = whole.get("model", {key: each for key, each in whole.items() if key not in others})
            assert is_same(dict(found), dict(model))


def test_a_step_of_torchtitan_is_the_same_as_the_weights_that_were_exported_from_it(tmp_path):
    made = dcp_folders.make_torchtitan(tmp_path)
    target = exported(made.path, tmp_path / "model.safetensors")
    with one.opened(str(made.path)) as a, one.opened(str(target)) as b:
        found = compare(a, b)
        assert not found.differing
        assert len(found.tensors) == len(made.weights)


def test_two_steps_differ_in_their_optimizers_too(tmp_path):
    paths = [str(dcp_folders.make_torchtitan(tmp_path, step=step).path) for step in (2, 4)]
    with one.opened(paths[0]) as a, one.opened(paths[1]) as b:
        found = compare(a, b)
    differing = {each.name for each in found.differing}
    assert {"wte.weight", "optimizer.state.wte.weight.exp_avg", "train_state.step"} <= differing
    assert [each.name for each in found.values] == ["lr_scheduler.last_epoch"]


def test_the_optimizer_is_exported_where_it_is_asked_for(tmp_path):
    made = dcp_folders.make_torchtitan(tmp_path)
    found = load_file(exported(made.path, tmp_path / "optimizer.safetensors", state="optimizer"))
    assert "state.wte.weight.exp_avg" in found


def test_a_plain_file_whose_weights_have_no_entry_of_their_own_is_exported_without_its_optimizer(tmp_path):
    state = {"weight": torch.ones(2), "optimizer": {"momentum": torch.ones(2)}, "epoch": 3}
    torch.save(state, tmp_path / "a.pt")
    assert load_file(exported(tmp_path / "a.pt", tmp_path / "a.safetensors")).keys() == {"weight"}
    torch.save({"optimizer": {"momentum": torch.ones(2)}}, tmp_path / "b.pt")
    found = load_file(exported(tmp_path / "b.pt", tmp_path / "b.safetensors"))
    assert found.keys() == {"optimizer.momentum"}
