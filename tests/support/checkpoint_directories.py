"""Directories of small checkpoints, whole and damaged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from marlin_ckpt import CheckpointDirectory, CheckpointInfo, Manifest
from marlin_ckpt.directory import catalog
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.naming import OWN_DIRECTORY


def state(value: float) -> dict[str, Any]:
    return {"weight": torch.full((32,), float(value)), "step": int(value)}


def filled(path: str | Path, losses: dict[int, float | None], **options: Any) -> CheckpointDirectory:
    """A directory with a checkpoint for each index, that has a loss or None; by one run, in this order."""
    made = CheckpointDirectory(path, **options)
    for index, loss in losses.items():
        made.save(state(index), index, metrics=None if loss is None else {"loss": loss})
    return made


def fill_folder(made: CheckpointDirectory, name: str, **options: Any) -> None:
    """Saves a folder with two files."""
    with made.transaction(name, **options) as folder:
        Path(folder, "weights").write_bytes(b"w" * 300)
        Path(folder, "deep").mkdir()
        Path(folder, "deep", "rng").write_bytes(b"r")


def truncate(path: str | Path) -> None:
    """Cuts off the end of a file, where its manifest is."""
    os.truncate(path, os.path.getsize(path) - 300)


def flip(path: str | Path) -> None:
    """Changes a byte of the data of a tensor; the manifest can still be read."""
    data = bytearray(Path(path).read_bytes())
    index = int(Path(path).stem.rpartition("_")[2])
    where = data.index(torch.full((32,), float(index)).numpy().tobytes())
    data[where + 5] ^= 4
    Path(path).write_bytes(data)


def manifest_of(path: str | Path) -> Manifest:
    entry = catalog.entry(path)
    assert entry is not None
    found = inspect(entry).manifest
    assert found is not None
    return found


def names(found: Any) -> list[str]:
    """The names of checkpoints, by their paths or what is known of them."""
    return [os.path.basename(one.path if isinstance(one, CheckpointInfo) else one) for one in found]


def listed(directory: str | Path) -> list[str]:
    """All that lies in a directory but our own folder, in order."""
    return sorted(name for name in os.listdir(directory) if name != OWN_DIRECTORY)
