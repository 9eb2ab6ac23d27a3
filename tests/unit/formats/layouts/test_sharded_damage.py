"""No flipped bit of a sharded checkpoint is silent, and nothing that a hostile one names is run."""

from __future__ import annotations

import os
import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marlin_ckpt.errors import BadFileError, MarlinError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.naming import MANIFEST
from marlin_ckpt.operations import one
from tests.support.sharded_folders import write, write_manifest

FLIPS = 150


def test_no_flip_in_shards_metadata_or_manifest_is_silent(tmp_path):
    folder = write(tmp_path / "model_500.dcp", {"weight": torch.randn(300, 20), "epoch": 7})
    files = [*folder.glob("*.distcp"), folder / ".metadata", folder / MANIFEST]
    chosen = random.Random(0)
    for number in range(FLIPS):
        path = files[number % len(files)]
        whole = path.read_bytes()
        data = bytearray(whole)
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)
        assert one.verify(folder).status is Status.CORRUPT, (number, path)
        path.write_bytes(whole)
    assert one.verify(folder).status is Status.INTACT


class Harm:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def sealed(folder: Path) -> None:
    own = Manifest.from_json((folder / MANIFEST).read_bytes())
    write_manifest(folder, replace(own), own.sharded)


def looked_at_in_every_way(folder: Path) -> list[object]:
    found: list[object] = [one.verify(folder)]
    for look in (one.inspect, lambda path: [*map(str, _opened(path))]):
        try:
            found.append(look(folder))
        except MarlinError as error:
            found.append(error)
    return found


def _opened(folder: Path) -> list[object]:
    with one.opened(str(folder)) as checked:
        return [checked.bits(each) for each in checked.contents.tensors]


def test_nothing_that_hostile_metadata_names_is_run(tmp_path):
    folder = write(tmp_path / "model_500.dcp", {"weight": torch.ones(3)}, ranks=1)
    (folder / ".metadata").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    sealed(folder)
    verdict, *errors = looked_at_in_every_way(folder)
    assert verdict.status is Status.NOT_A_CHECKPOINT
    assert "refused: it would import posix.system" in verdict.reason
    assert all(isinstance(each, BadFileError) for each in errors)
    assert not (tmp_path / "harm").exists()


def test_nothing_that_a_hostile_value_names_is_run_and_showing_it_says_so(tmp_path):
    state = {"weight": torch.ones(3), "harm": Harm(tmp_path / "harm")}
    folder = write(tmp_path / "model_500.dcp", state, ranks=1)
    verdict, contents, _ = looked_at_in_every_way(folder)
    assert verdict.status is Status.INTACT
    assert "posix.system" in contents.imports
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["../model.pt", "/etc/passwd", "a/b.distcp"])
def test_no_file_outside_of_the_folder_is_read(tmp_path, name):
    folder = write(tmp_path / "model_500.dcp", {"weight": torch.ones(3)}, ranks=1)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for info in metadata.storage_data.values():
        info.relative_path = name
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    sealed(folder)
    assert one.verify(folder).status is Status.CORRUPT
    with pytest.raises(BadFileError, match="outside of the folder"):
        one.inspect(folder)
