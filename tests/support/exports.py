"""Exports checkpoints, and loads what was exported."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from marlin_ckpt.operations import export, weights_file
from marlin_ckpt.operations.export import Exported, Wanted
from marlin_ckpt.operations.one import opened

INDEX = "model.safetensors.index.json"


def run_export(
    source: Path | str,
    output: Path | str,
    shard_size: str | None = None,
    *,
    force: bool = False,
    **wanted: str,
) -> Exported:
    """Does what the command does with these arguments."""
    with opened(str(source)) as file:
        return export.export(
            file, weights_file.output(str(output), shard_size, force=force), Wanted(**wanted)
        )


def load_folder(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder of shards."""
    if not (path / INDEX).exists():
        return load_file(path / "model.safetensors")
    places = json.loads((path / INDEX).read_text())["weight_map"]
    return {name: load_file(path / file)[name] for name, file in places.items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compares names and tensors."""
    assert {*found} == {*expected}
    assert all(torch.equal(found[name], one) for name, one in expected.items())
