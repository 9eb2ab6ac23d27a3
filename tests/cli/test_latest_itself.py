"""`marlin-ckpt latest` of a directory that is itself one checkpoint."""

from __future__ import annotations

import os
import shutil

import pytest

from marlin_ckpt.directory.transaction import Transaction
from marlin_ckpt.naming import Kind
from marlin_ckpt.saving.recording import Recording
from tests.support.foreign import accelerate, trainer


@pytest.fixture
def ours(tmp_path):
    """A folder of a Trainer that was saved with a manifest of ours."""
    made = trainer.make_trainer(tmp_path / "stock", step=7)
    manifest = Recording("Transformers").lineage.manifest(Kind.CHECKPOINT, 7, None, {}, {})
    with Transaction(tmp_path / "run", "checkpoint-7", manifest=manifest) as staging:
        shutil.copytree(made.path, staging, dirs_exist_ok=True)
    return tmp_path / "run" / "checkpoint-7"


def test_it_is_that_checkpoint_as_list_has_it(run_main, tmp_path):
    made = accelerate.make_accelerate(tmp_path)
    prefix = os.path.basename(made.path).rpartition("_")[0]
    assert run_main("latest", made.path) == (0, f"{made.path}\n", "")
    assert run_main("latest", f"{made.path}/", "--prefix", prefix)[:2] == (0, f"{made.path}\n")
    assert run_main("latest", made.path, "--prefix", "model")[:2] == (4, "")
    assert run_main("list", made.path)[1].split()[-1] == "."


def test_of_a_folder_of_ours_it_is_that_where_it_is_intact(run_main, ours):
    assert run_main("latest", ours, "--intact") == (0, f"{ours}\n", "")
    (ours / "optimizer.pt").write_bytes(b"")
    assert run_main("latest", ours)[0] == 0
    code, out, err = run_main("latest", ours, "--intact")
    assert (code, out, "it is empty" in err) == (4, "", False)


def test_of_a_damaged_part_nothing_says_that_the_whole_is_intact(run_main, ours):
    part = ours / "optimizer.pt"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    code, _, err = run_main("verify", part)
    assert (code, "--intact" in err) == (3, False)


def test_of_an_empty_directory_there_is_none(run_main, tmp_path):
    code, out, err = run_main("latest", tmp_path)
    assert (code, out) == (4, "")
    assert "it is empty" in err
