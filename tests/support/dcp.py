"""What the tests of torch's Distributed Checkpoint do with a folder."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from marlin_ckpt.directory import catalog
from marlin_ckpt.entries import Entry
from marlin_ckpt.formats.verdicts import Verdict
from marlin_ckpt.operations import one


def entry_of(folder: Path) -> Entry:
    found = catalog.entry(folder)
    assert found is not None
    return found


def verified(folder: Path) -> Verdict:
    return one.verify(folder)


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    with one.opened(str(folder)) as checked:
        return {
            each.name: torch.from_numpy(checked.values(each)).reshape(each.shape)
            for each in checked.contents.tensors
        }


def metadata_of(folder: Path) -> Any:
    return pickle.loads((folder / ".metadata").read_bytes())


def rewrite(folder: Path, metadata: Any) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
