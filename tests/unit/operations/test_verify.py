"""`verify` fails for damaged files, and for files that were named and are no checkpoints."""

from __future__ import annotations

import os

import pytest
import torch

from marlin_ckpt.directory import catalog
from marlin_ckpt.formats.verdicts import Status, Verdict
from marlin_ckpt.operations.verify import is_bad, verify


@pytest.mark.parametrize("named", [[], ["a.pt"]], ids=["found in a directory", "named"])
@pytest.mark.parametrize("status", Status)
def test_only_a_file_that_was_named_must_be_a_checkpoint(status, named):
    bad = {Status.CORRUPT, Status.INCOMPLETE} | ({Status.NOT_A_CHECKPOINT} if named else set())
    assert is_bad([Verdict("b.pt", Status.INTACT), Verdict("a.pt", status)], named) == (status in bad)


def test_a_file_that_is_removed_meanwhile_is_left_out(tmp_path):
    for name in ("model_1.pt", "model_2.pt"):
        torch.save({"weight": torch.ones(3)}, tmp_path / name)
    entries = catalog.find(tmp_path)
    os.unlink(entries[0].path)
    found = verify(entries)
    assert [(one.path, one.status) for one in found] == [(entries[1].path, Status.INTACT)]
