"""Folders that Transformers, its Trainer and PEFT write: tiny GPT-2s with random weights, no network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from .hugging_face import SPARE
from .made import Made, Tensors

STEPS = 4


def model(*, tied: bool = False, seed: int = 0) -> GPT2LMHeadModel:
    """A GPT-2 of two layers, of about 36 kB."""
    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 64, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0))


def held_by(path: Path) -> dict[str, tuple[str, ...]]:
    """For each tensor the safetensors file of a folder that holds it."""
    holders = {}
    for name in sorted(os.listdir(path)):
        if name.endswith(".safetensors"):
            with safe_open(path / name, "pt") as opened:
                holders |= dict.fromkeys(opened.keys(), (name,))
    return holders


def loaded(path: Path) -> Tensors:
    """The weights that Transformers loads from a folder, without those that it ties to others."""
    stored = held_by(path)
    state = GPT2LMHeadModel.from_pretrained(path).state_dict()
    return {name: state[name].clone() for name in stored}


def _made(path: Path, layout: str, of: Tensors | None = None, **options: Any) -> Made:
    return Made(
        path=path, layout=layout, weights=of or loaded(path), holders=held_by(path), spare=SPARE, **options
    )


def make_single(directory: Path, *, step: int = 0) -> Made:
    """`save_pretrained(path)`."""
    model(seed=step).save_pretrained(directory / "single")
    return _made(directory / "single", "single")


def make_sharded(directory: Path, *, step: int = 0, size: str = "10KB") -> Made:
    """`save_pretrained(path, max_shard_size="10KB")`: four shards."""
    model(seed=step).save_pretrained(directory / "sharded", max_shard_size=size)
    return _made(directory / "sharded", "sharded")


def make_tied(directory: Path, *, step: int = 0) -> Made:
    """The same of a model whose head is its embedding."""
    model(tied=True, seed=step).save_pretrained(directory / "tied", max_shard_size="10KB")
    return _made(directory / "tied", "sharded")


def with_adapter(seed: int = 0) -> PeftModel:
    """A GPT-2 with a LoRA, whose second matrix is not all zeros."""
    config = LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    one = get_peft_model(model(seed=seed), config)
    for name, value in one.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    return one


def adapter_loaded(path: Path) -> Tensors:
    """The weights of an adapter as PEFT loads them, by the names in the file: without `.default`."""
    state = PeftModel.from_pretrained(model(), path).state_dict()
    return {name.replace(".default.", "."): one.clone() for name, one in state.items() if ".lora_" in name}


def make_adapter(directory: Path, *, step: int = 0) -> Made:
    """`PeftModel.save_pretrained(path)`."""
    path = directory / "adapter"
    with_adapter(step).save_pretrained(path)
    return _made(path, "adapter", adapter_loaded(path))


def train(directory: Path, one: Any = None, **options: Any) -> list[Path]:
    """Trains for four steps with two saves and two evaluations, and gives the folders, the newest last."""
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 8
    defaults = {
        "output_dir": str(directory), "max_steps": STEPS, "save_steps": 2, "eval_strategy": "steps",
        "eval_steps": 2, "per_device_train_batch_size": 2, "report_to": [], "use_cpu": True,
        "disable_tqdm": True, "logging_steps": 1,
    }  # fmt: skip
    arguments = TrainingArguments(**{**defaults, **options})
    Trainer(one or model(), arguments, train_dataset=rows, eval_dataset=rows).train()
    return [directory / f"checkpoint-{step}" for step in (2, STEPS)]


def trainer_made(path: Path, of: Tensors | None = None) -> Made:
    """A `checkpoint-N` with the metrics of its evaluation."""
    state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    step = state["global_step"]
    metrics = {
        name: value
        for entry in state["log_history"]
        if entry["step"] == step
        for name, value in entry.items()
        if name.startswith("eval_")
    }
    return _made(path, "trainer", of, step=step, metrics=metrics)


def make_trainer(directory: Path) -> Made:
    """`checkpoint-4` of a Trainer with `load_best_model_at_end`."""
    return trainer_made(train(directory, load_best_model_at_end=True)[-1])


def make_trainer_only_model(directory: Path) -> Made:
    """`checkpoint-4` with `save_only_model=True`."""
    return trainer_made(train(directory, save_only_model=True)[-1])


def make_trainer_adapter(directory: Path) -> Made:
    """`checkpoint-4` of a PEFT model."""
    path = train(directory, with_adapter())[-1]
    return trainer_made(path, adapter_loaded(path))
