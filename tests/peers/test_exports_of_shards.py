"""`from_pretrained` reads the folders that `export` writes, tied weights included."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from marlin_ckpt.cli.main import main

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are theirs


def small_model(*, tied: bool):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("source", ["shards", "file"])
def test_from_pretrained_reads_the_weights_that_were_saved(tmp_path: Path, source: str, tied: bool) -> None:
    model = small_model(tied=tied)
    model.save_pretrained(tmp_path / "shards", max_shard_size="5kB")
    torch.save({"model": model.state_dict(), "step": 1}, tmp_path / "file")
    assert main(["export", str(tmp_path / source), "-o", f"{tmp_path}/new/", "--shard-size", "3kB"]) == 0
    if source == "file":
        (tmp_path / "new" / "config.json").write_bytes((tmp_path / "shards" / "config.json").read_bytes())
    found, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(info.values())
    before, after = model.state_dict(), found.state_dict()
    assert {*before} == {*after}
    assert all(torch.equal(one, after[name]) for name, one in before.items())


def test_the_names_of_shards_and_their_number_are_those_of_save_pretrained(tmp_path: Path) -> None:
    model = small_model(tied=False)
    for size in ("1kB", "3kB", "1GB"):
        model.save_pretrained(tmp_path / f"{size}-theirs", max_shard_size=size)
        source, output = tmp_path / f"{size}-theirs", tmp_path / f"{size}-ours"
        assert main(["export", str(source), "-o", f"{output}/", "--shard-size", size]) == 0
        assert sorted(os.listdir(output)) == sorted(os.listdir(source))
