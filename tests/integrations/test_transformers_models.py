"""The Trainer with our checkpoints: models of Transformers, shards, adapters of PEFT, example and page."""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, Trainer

from marlin_ckpt.directory import catalog
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.integrations.transformers import MarlinCheckpoints, protect
from marlin_ckpt.operations.folders import transformers
from tests.support import warm
from tests.support.checkpoint_directories import listed
from tests.support.folders import REPOSITORY
from tests.support.pages import blocks, lines, page
from tests.support.trainer_runs import arguments

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
ROWS = [{"input_ids": [1, 2, 3, 4 + row], "labels": [1, 2, 3, 4 + row]} for row in range(8)]


def language_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=8))


def adapted() -> PeftModel:
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    return get_peft_model(language_model(), config)


def trained(directory: Path, model: Any, *, resume: bool = False, steps: int = 4) -> Trainer:
    args = arguments(str(directory), max_steps=steps, save_total_limit=None)
    one = protect(Trainer(model, args, train_dataset=ROWS))
    one.train(resume_from_checkpoint=resume)
    return one


def state(model: Any) -> dict[str, list[Any]]:
    return {name: one.tolist() for name, one in model.state_dict().items()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["whole", "shards"])
def test_what_was_saved_is_what_from_pretrained_loads_and_a_damaged_shard_is_passed_over(
    tmp_path, kind, caplog
):
    def make() -> GPT2LMHeadModel:
        model = language_model()
        if kind == "shards":
            model.save_pretrained = functools.partial(model.save_pretrained, max_shard_size="2KB")
        return model

    one = trained(tmp_path, make())
    newest = tmp_path / "checkpoint-4"
    assert (
        len([*newest.glob("model*.safetensors")]) == 1
        if kind == "whole"
        else len([*newest.glob("model-*")]) >= 2
    )
    assert verification.verify(catalog.entry(newest)).status is Status.INTACT
    assert state(GPT2LMHeadModel.from_pretrained(newest)) == state(one.model)
    flip(max(newest.glob("model*.safetensors")))
    assert state(trained(tmp_path, make(), resume=True).model) == state(one.model)
    assert f"Passed over {newest}: corrupt: the CRC of model" in caplog.text


def test_shards_without_a_manifest_must_all_be_there(tmp_path, caplog):
    model = language_model()
    model.save_pretrained = functools.partial(model.save_pretrained, max_shard_size="2KB")
    trained(tmp_path, model)
    for folder in tmp_path.glob("checkpoint-*"):
        shutil.rmtree(folder / ".marlin")
    newest = tmp_path / "checkpoint-4"
    gone = min(newest.glob("model-*.safetensors"))
    gone.unlink()
    trained(tmp_path, language_model(), resume=True)
    assert f"Passed over {newest}: incomplete: without {gone.name}" in caplog.text


def test_the_adapters_of_peft_are_saved_and_resumed_from(tmp_path):
    one = trained(tmp_path, adapted())
    newest = tmp_path / "checkpoint-4"
    assert (newest / "adapter_model.safetensors").exists()
    assert verification.verify(catalog.entry(newest)).status is Status.INTACT
    assert state(PeftModel.from_pretrained(language_model(), newest)) == state(one.model)
    flip(newest / "adapter_model.safetensors")
    assert state(trained(tmp_path, adapted(), resume=True).model) == state(one.model)


def test_the_example_resumes(tmp_path):
    command = [sys.executable, str(REPOSITORY / "examples" / "with_transformers.py"), str(tmp_path / "run")]
    said = [
        warm.run(command, capture_output=True, text=True, timeout=300, check=True).stdout.splitlines()
        for _ in range(2)
    ]
    assert said[0][0] == "starts from the beginning"
    assert [line for line in said[1] if line.startswith("loss ")] == [said[0][-1]]
    assert listed(tmp_path / "run") == ["checkpoint-32", "checkpoint-40"]


def test_the_page_shows_lines_that_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (difference,), (derived, with_peft, resumed) = (
        blocks("transformers", "diff"),
        blocks("transformers", "python"),
    )
    names = {
        "Trainer": Trainer, "model": language_model(), "args": arguments("run", save_steps=2), "rows": ROWS,
    }  # fmt: skip
    for sign in "-+":
        names["args"].max_steps = 4 if sign == "-" else 8
        exec(lines(difference, " " + sign), names)
        assert isinstance(names["trainer"], MarlinCheckpoints) == (sign == "+")
        shutil.rmtree("run", ignore_errors=True)
        names["trainer"].train()
    names["SFTTrainer"] = Trainer
    exec(derived, names)
    one = names["MyTrainer"](names["model"], names["args"], train_dataset=ROWS)
    one.train(resume_from_checkpoint=True)
    assert one.state.global_step == 8
    losses = []
    for steps in (4, 8):  # in one directory: the second goes on
        names["args"] = arguments("adapters", max_steps=steps, save_total_limit=None)
        names["model"] = language_model()
        exec(with_peft + resumed, names)
        losses.append([row["step"] for row in names["trainer"].state.log_history if "loss" in row])
        assert names["is_begun"] == (steps == 8)
    assert losses == [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]]
    loaded = PeftModel.from_pretrained(language_model(), Path("adapters", "checkpoint-8"))
    assert state(loaded) == state(names["adapted"])


@pytest.mark.parametrize("kind", ["protected", "stock"])
def test_the_page_says_which_files_of_a_folder_are_checked_before_a_run_resumes_from_it(tmp_path, kind):
    rows = re.findall(r"^\| (`.+|what a .+) \| (.+) \| (.+) \|$", page("transformers"), re.MULTILINE)
    said = {name: (ours, stock) for names, ours, stock in rows for name in re.findall(r"`([\w.]+)`", names)}
    one = trained(tmp_path / "run", adapted())
    folder = tmp_path / "run" / "checkpoint-4"
    if kind == "stock":
        shutil.rmtree(folder / ".marlin")
    needed = transformers.needed(save_only_model=False)
    assert not transformers.verify(str(folder), needed).status.is_bad
    for name in sorted({path.name for path in folder.iterdir() if path.is_file()}):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])  # no format takes half a file
        is_noticed = transformers.verify(str(folder), needed).status.is_bad
        (folder / name).unlink()
        is_missed = transformers.verify(str(folder), needed).status.is_bad
        (folder / name).write_bytes(data)
        text = said[name][kind == "stock"]
        assert is_missed == ("has to be there" in text or text == "CRC32"), name
        assert is_noticed == (text != "not looked at"), name
    assert one.state.global_step == 4
