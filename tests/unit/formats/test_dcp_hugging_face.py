"""Shards in safetensors by torch's Distributed Checkpoint: put together, and what of them is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from marlin_ckpt.errors import BadFileError
from marlin_ckpt.formats import inspection
from marlin_ckpt.formats.verdicts import Status
from tests.support.dcp import entry_of, read_all, verified
from tests.support.foreign import dcp_folders, real_dcp
from tests.support.foreign.made import Made

FIRST, SECOND = (f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2))


@pytest.fixture
def made(tmp_path) -> Made:
    return dcp_folders.make_hugging_face_shards(tmp_path)


def change_starts(path: Path, change) -> None:
    with safe_open(path, "pt") as file:
        texts = file.metadata()
    starts = json.loads(texts["DCP_SHARDING_INFO"])
    changed = change(starts)
    text = changed if isinstance(changed, str) else json.dumps(starts)
    save_file(load_file(path), path, metadata={**texts, "DCP_SHARDING_INFO": text})


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_pieces_are_put_together(tmp_path, ranks):
    made = dcp_folders.make_hugging_face_shards(tmp_path, ranks=ranks)
    read = read_all(made.path)
    assert read.keys() == made.weights.keys()
    assert all(torch.equal(read[name], weight) for name, weight in made.weights.items())
    assert entry_of(made.path).index == 4
    assert inspection.inspect(entry_of(made.path)).status is Status.COMPLETE
    verdict = verified(made.path)
    assert verdict.status is Status.UNVERIFIABLE
    assert "whether the last ranks are all there is not known" in verdict.reason


def test_what_torch_writes_is_read_also_where_it_could_not_be_merged(tmp_path):
    made = real_dcp.make_alone(tmp_path)["dcp-hugging-face"]
    inner = tmp_path / "step-7" / "sharded"
    inner.parent.mkdir()
    made.path.rename(inner)
    read = read_all(inner.parent)
    assert all(torch.equal(read[name], weight) for name, weight in made.weights.items())
    assert entry_of(inner.parent).index == 7


def test_the_first_ranks_missing_shard_is_noticed_and_the_last_ones_is_not(made):
    second = (made.path / SECOND).read_bytes()
    (made.path / SECOND).unlink()
    assert verified(made.path).status is Status.UNVERIFIABLE
    (made.path / SECOND).write_bytes(second)
    (made.path / FIRST).unlink()
    verdict = verified(made.path)
    assert verdict.status is Status.INCOMPLETE
    assert "transformer.wte.weight lacks 16 of its 32 elements" in verdict.reason
    assert "transformer.wte.weight" in verdict.tensors


def test_a_file_of_several_that_no_rank_wrote_is_missing(made):
    for name in (FIRST, SECOND):
        (made.path / name).rename(made.path / name.replace("of-00001", "of-00002"))
    verdict = verified(made.path)
    assert verdict.status is Status.INCOMPLETE
    assert "no shard of model-00002-of-00002 is there" in verdict.reason


def test_a_shard_that_is_cut_short_is_corrupt(made):
    data = (made.path / SECOND).read_bytes()
    (made.path / SECOND).write_bytes(data[:-1])
    verdict = verified(made.path)
    assert verdict.status is Status.CORRUPT
    assert SECOND in verdict.reason


@pytest.mark.parametrize(
    "change",
    [
        lambda starts: "no JSON",
        lambda starts: "[" * 10_000,
        lambda starts: starts["lm_head.weight"].update(saved_offsets=[0, 0]),
        lambda starts: starts["lm_head.weight"].update(saved_offsets=[-4, 0]),
        lambda starts: starts["lm_head.weight"].update(saved_offsets=[4]),
        lambda starts: starts["lm_head.weight"].update(saved_offsets=[2**62, 2**62]),
        lambda starts: starts.update({"lm_head.weight": 3}),
    ],
)
def test_starts_that_contradict_are_noticed_and_nothing_is_read(made, change):
    change_starts(made.path / SECOND, change)
    assert verified(made.path).status.is_bad
    with pytest.raises(BadFileError):
        read_all(made.path)
