"""The hand-made checkpoints of other tools hold what they say: the packages' own readers give it back."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from tests.support.foreign import dcp_folders, outlines, real_dcp
from tests.support.foreign.corpus import CHECKPOINTS, RUNS
from tests.support.foreign.made import Made, foreign_class


def _named(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    if not isinstance(value, dict):
        return {}
    dotted = f"{prefix}." if prefix else ""
    return {name: one for key, part in value.items() for name, one in _named(part, f"{dotted}{key}").items()}


def _by_dcp(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, Any] = {}
    _load_state_dict(
        state, storage_reader=FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True
    )
    return _named(state)


def _by_pieces(folder: Path) -> dict[str, torch.Tensor]:
    """The union of what each `__R.metadata` states: torch's own reader wants as many ranks as have saved."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("__*.metadata")):
        metadata = pickle.loads(file.read_bytes())
        for index, info in metadata.storage_data.items():
            content = (folder / info.relative_path).read_bytes()[info.offset : info.offset + info.length]
            piece, told = torch.load(io.BytesIO(content)), metadata.state_dict_metadata[index.fqn]
            if isinstance(piece, torch.Tensor):
                whole = found.setdefault(index.fqn, torch.full(told.size, torch.nan))
                ends = (at + size for at, size in zip(index.offset, piece.size(), strict=True))
                whole[tuple(slice(*one) for one in zip(index.offset, ends, strict=True))] = piece
    return found


def _by_hugging_face(folder: Path) -> dict[str, torch.Tensor]:
    reader = HuggingFaceStorageReader(str(folder))
    described = reader.read_metadata().state_dict_metadata
    state = {name: torch.empty(one.size, dtype=one.properties.dtype) for name, one in described.items()}
    _load_state_dict(state, storage_reader=reader, planner=DefaultLoadPlanner(), no_dist=True)
    return state


def _by_zero(made: Made) -> dict[str, torch.Tensor]:
    """As `zero_to_fp32.py` puts the parts of ZeRO-3 together."""
    files = sorted(made.path.glob("*_optim_states.pt"))
    parts = [torch.load(file)["optimizer_state_dict"]["fp32_flat_groups"][0] for file in files]
    found, offset = {}, 0
    for name, one in made.weights.items():
        length = -(-one.numel() // len(parts))
        whole = torch.cat([part[offset : offset + length] for part in parts])[: one.numel()]
        found[name] = whole.view(one.shape).to(one.dtype)
        offset += length
    return found


def _load(made: Made) -> dict[str, torch.Tensor]:
    """All that the files hold, as their own readers load it."""
    files = {file for files in made.holders.values() for file in files}
    if made.layout == "dcp-hugging-face":
        return _by_hugging_face(made.path)
    if any(file.endswith("_optim_states.pt") for file in files):
        return _by_zero(made)
    if "__0.metadata" in made.files:
        return _by_pieces(made.path)
    folders = {(made.path / file).parent for file in files if file.endswith(".distcp")}
    if folders:
        return {name: one for folder in folders for name, one in _by_dcp(folder).items()}
    found: dict[str, torch.Tensor] = {}
    for file in sorted(files):
        path = made.path / file if made.path.is_dir() else made.path
        prefix = f"{file.partition('.')[0]}." if "model_1." in file else ""
        if file.endswith(".safetensors"):
            with safe_open(path, "pt") as opened:
                found |= {prefix + name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        else:
            content = torch.load(path, weights_only=False)
            found |= _named(content["module"] if made.layout == "deepspeed" else content)
    return found


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_maker_writes_the_weights_that_it_names(name: str, tmp_path: Path) -> None:
    made = CHECKPOINTS[name](tmp_path)
    found = _load(made)
    assert made.weights
    assert set(made.weights) <= set(found)
    for one, value in made.weights.items():
        assert torch.equal(found[one], value), one
    assert {file for files in made.holders.values() for file in files} <= set(made.files)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_its_checkpoints_side_by_side_and_each_has_values_of_its_own(
    name: str, tmp_path: Path
) -> None:
    made = RUNS[name](tmp_path)
    assert [one.step for one in made] == sorted(one.step or 0 for one in made)
    assert len({one.path for one in made}) == len(made)
    assert len({one.path.parent for one in made}) == 1
    first, *_, last = made
    assert not any(torch.equal(first.weights[one], value) for one, value in last.weights.items())


def test_ours_have_the_metadata_that_torch_writes_in_one_process(tmp_path: Path) -> None:
    real = real_dcp.make_alone(tmp_path / "real")
    for name, ours in (
        ("dcp", dcp_folders.make_dcp(tmp_path, ranks=1)),
        ("torchtitan", dcp_folders.make_torchtitan(tmp_path, ranks=1)),
    ):
        mine, theirs = (outlines.of_metadata(one.path / ".metadata") for one in (ours, real[name]))
        assert mine == theirs
        found = _by_dcp(real[name].path)
        assert all(torch.equal(found[one], value) for one, value in real[name].weights.items())


def test_a_class_of_a_package_that_is_not_there_leaves_no_module_behind(tmp_path: Path) -> None:
    before = dict(sys.modules)
    with foreign_class("no_such_package.inner", "Thing") as thing:
        torch.save(thing(), tmp_path / "one.pt")
    assert "no_such_package" not in sys.modules
    assert "no_such_package.inner" not in sys.modules
    assert before.keys() <= sys.modules.keys()
    assert b"no_such_package.inner\nThing" in (tmp_path / "one.pt").read_bytes()
