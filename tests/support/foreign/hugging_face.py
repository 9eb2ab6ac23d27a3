"""Folders of weights as `save_pretrained` writes them: one file, shards with an index, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .made import Made, Tensors, folder, split, weights, write_json

_CONFIG = {
    "architectures": ["GPT2LMHeadModel"], "dtype": "float32", "model_type": "gpt2", "n_embd": 4, "n_head": 1,
    "n_layer": 1, "n_positions": 8, "tie_word_embeddings": False, "transformers_version": "5.24.0",
    "use_cache": True, "vocab_size": 8,
}  # fmt: skip
_GENERATION = {
    "_from_model_config": True, "bos_token_id": 50256, "eos_token_id": 50256, "output_attentions": False,
    "output_hidden_states": False, "transformers_version": "5.24.0", "use_cache": True,
}  # fmt: skip
SPARE = frozenset({"generation_config.json", "README.md", "training_args.bin"})


def write_model(
    path: Path, of: Tensors, *, shards: int = 1, kind: str = "safetensors", tied: bool = False
) -> dict[str, tuple[str, ...]]:
    """Writes what `PreTrainedModel.save_pretrained` does (transformers 5.24, modeling_utils.py).

    Args:
        path: The folder, which need not be there.
        of: The weights.
        shards: In how many files; in one without an index.
        kind: `safetensors`, or `bin` as transformers 4 wrote with `safe_serialization=False`.
        tied: Whether to say in `config.json` that the embeddings are tied.

    Returns:
        For each weight the file that holds it.
    """
    folder(path)
    write_json(path / "config.json", {**_CONFIG, "tie_word_embeddings": tied})
    write_json(path / "generation_config.json", _GENERATION)
    stem, extension = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    single = f"{stem}.{extension}"
    holders = {}
    for number, names in enumerate(split(list(of), shards), 1):
        name = f"{stem}-{number:05d}-of-{shards:05d}.{extension}" if shards > 1 else single
        part = {one: of[one] for one in names}
        if kind == "safetensors":
            save_file(part, path / name, metadata={"format": "pt"})
        else:
            torch.save(part, path / name)
        holders |= dict.fromkeys(names, name)
    if shards > 1:
        metadata = {
            "total_parameters": sum(one.numel() for one in of.values()),
            "total_size": sum(one.nbytes for one in of.values()),
        }
        if kind == "bin":  # most releases of transformers 4 counted no parameters
            del metadata["total_parameters"]
        write_json(path / f"{single}.index.json", {"metadata": metadata, "weight_map": holders})
    return {name: (one,) for name, one in holders.items()}


def make_single(directory: Path, *, step: int = 0, kind: str = "safetensors") -> Made:
    """`config.json` with `model.safetensors` (transformers 5.24, modeling_utils.py, `save_pretrained`)."""
    path, of = directory / "single", weights(step)
    holders = write_model(path, of, kind=kind)
    return Made(path=path, layout="single", weights=of, holders=holders, spare=SPARE)


def make_sharded(directory: Path, *, step: int = 0, shards: int = 3, kind: str = "safetensors") -> Made:
    """Shards and `model.safetensors.index.json` (transformers 5.24, modeling_utils.py, `save_pretrained`)."""
    path, of = directory / "sharded", weights(step)
    holders = write_model(path, of, shards=shards, kind=kind)
    return Made(path=path, layout="sharded", weights=of, holders=holders, spare=SPARE)


def make_sharded_bin(directory: Path, *, step: int = 0) -> Made:
    """`pytorch_model-00001-of-00003.bin` with its index (transformers 4.57, modeling_utils.py).

    transformers 5 reads them and no longer writes them, whatever `safe_serialization` says.
    """
    return make_sharded(directory, step=step, kind="bin")


def make_single_bin(directory: Path, *, step: int = 0) -> Made:
    """`pytorch_model.bin` (transformers 4.57, modeling_utils.py)."""
    return make_single(directory, step=step, kind="bin")


def make_tied(directory: Path, *, step: int = 0) -> Made:
    """Shards of a model whose head is its embedding: `lm_head.weight` is in no shard and not in the index."""
    path, of = directory / "tied", weights(step)
    del of["lm_head.weight"]
    holders = write_model(path, of, shards=3, tied=True)
    return Made(path=path, layout="sharded", weights=of, holders=holders, spare=SPARE)


def adapter_config(**options: Any) -> dict[str, Any]:
    """The keys of `adapter_config.json` that readers look at (peft 0.21, tuners/lora/config.py)."""
    return {
        "auto_mapping": None, "base_model_name_or_path": "org/base", "bias": "none", "fan_in_fan_out": True,
        "inference_mode": True, "init_lora_weights": True, "lora_alpha": 8, "lora_dropout": 0.0,
        "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.21.2", "r": 2, "revision": None,
        "target_modules": ["c_attn"], "task_type": "CAUSAL_LM", "use_dora": False,
        "use_rslora": False, **options,
    }  # fmt: skip


def adapter_weights(step: int = 0) -> Tensors:
    """The two small matrices of a LoRA on one layer."""
    generator = torch.Generator().manual_seed(step)
    stem = "base_model.model.transformer.h.0.attn.c_attn"
    return {
        f"{stem}.lora_A.weight": torch.randn(2, 4, generator=generator),
        f"{stem}.lora_B.weight": torch.randn(12, 2, generator=generator),
    }


def write_adapter(path: Path, of: Tensors) -> dict[str, tuple[str, ...]]:
    """Writes what `PeftModel.save_pretrained` does (peft 0.21, peft_model.py)."""
    folder(path)
    write_json(path / "adapter_config.json", adapter_config(), end="")
    save_file(of, path / "adapter_model.safetensors", metadata={"format": "pt"})
    (path / "README.md").write_text("---\nbase_model: org/base\nlibrary_name: peft\n---\n", encoding="utf-8")
    return dict.fromkeys(of, ("adapter_model.safetensors",))


def make_adapter(directory: Path, *, step: int = 0) -> Made:
    """`adapter_config.json` with `adapter_model.safetensors` (peft 0.21, peft_model.py)."""
    path, of = directory / "adapter", adapter_weights(step)
    holders = write_adapter(path, of)
    return Made(path=path, layout="adapter", weights=of, holders=holders, spare=SPARE)
