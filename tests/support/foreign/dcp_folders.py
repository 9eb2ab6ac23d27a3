"""Folders of torch's Distributed Checkpoint, with the names that its users give."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from .dcp_writing import write_dcp, write_hugging_face_shards, write_merged
from .made import (
    Made,
    Tensors,
    folder,
    moments,
    optimizer_state,
    prefixed,
    random_state,
    scheduler_state,
    weights,
    write_json,
)


def nested_optimizer(of: Tensors, step: int = 0) -> dict[str, Any]:
    """What `get_optimizer_state_dict` gives: states and groups by the names of weights (torch 2.13)."""
    groups = optimizer_state(of, step)["param_groups"]
    return {
        "state": {name: moments(one, step) for name, one in of.items()},
        "param_groups": [{**groups[0], "params": list(of)}],
    }


def flat_optimizer(of: Tensors, step: int = 0) -> dict[str, Any]:
    """The same with `StateDictOptions(flatten_optimizer_state_dict=True)`: dots in names, one level."""
    state = {
        f"state.{name}.{key}": value for name, one in of.items() for key, value in moments(one, step).items()
    }
    group = optimizer_state(of, step)["param_groups"][0]
    groups = {f"param_groups.{name}.{key}": group[key] for name in of for key in group if key != "params"}
    return {**state, **groups}


def make_dcp(directory: Path, *, step: int = 4, ranks: int = 2, **options: Any) -> Made:
    """`dcp.save({"model": ..., "optimizer": ..., "step": 4})` of FSDP2 (torch 2.13, state_dict_saver.py)."""
    path, of = directory / f"dcp_{step}", weights(step)
    state = {"model": of, "optimizer": nested_optimizer(of, step), "step": step}
    holders = write_dcp(path, state, ranks=ranks, **options)
    return Made(path=path, layout="dcp", weights=prefixed(of, "model."), holders=holders)


def make_dcp_of_one(directory: Path, *, step: int = 4) -> Made:
    """The same by one process: only `__0_0.distcp`."""
    return make_dcp(directory, step=step, ranks=1)


def make_old_dcp(directory: Path, *, step: int = 4) -> Made:
    """The same by torch before 2.4, whose metadata has neither `version` nor `storage_meta` (torch 2.2)."""
    return make_dcp(directory, step=step, with_version=False)


def make_dcp_in_threads(directory: Path, *, step: int = 4) -> Made:
    """The same with `FileSystemWriter(thread_count=2)`: two files a rank."""
    return make_dcp(directory, step=step, files_a_rank=2)


def make_dcp_apart(directory: Path, *, step: int = 4) -> Made:
    """The same with `dcp.save(..., use_collectives=False)`: `__R.metadata`, each with its rank's part."""
    return make_dcp(directory, step=step, is_together=False)


def make_torchtitan(directory: Path, *, step: int = 10, ranks: int = 2) -> Made:
    """`checkpoint/step-10` of torchtitan 0.2 (components/checkpoint.py, `CheckpointManager`).

    The model is flat at the top, `optimizer` has dotted names of one level, `train_state` holds tensors and
    bytes, `dataloader` one pickle for each rank.
    """
    path, of = directory / "checkpoint" / f"step-{step}", weights(step, prefix="")
    state = {
        **of,
        "optimizer": flat_optimizer(of, step),
        "lr_scheduler": {key: value for key, value in scheduler_state(step).items() if key == "last_epoch"},
        "train_state": {
            "step": torch.tensor(step, dtype=torch.int32),
            "ntokens_seen": torch.tensor(8 * step),
        },
        "dataloader": {**{f"dp_rank_{rank}": b"pickled" for rank in range(ranks)}, "world_size": ranks},
    }
    holders = write_dcp(path, state, ranks=ranks, is_sharded=lambda name: name.endswith("weight"))
    return Made(path=path, layout="torchtitan", weights=of, step=step, holders=holders)


def write_fsdp(path: Path, of: Tensors, step: int, *, ranks: int = 2) -> dict[str, tuple[str, ...]]:
    """Writes `pytorch_model_fsdp_0/` and `optimizer_0/` (accelerate 1.15, utils/fsdp_utils.py).

    The Trainer of Transformers calls the same functions, `save_fsdp_model` and `save_fsdp_optimizer`.

    Args:
        path: The folder of the whole checkpoint.
        of: The weights.
        step: For the optimizer.
        ranks: How many ranks save.

    Returns:
        For each weight, with `model.` before its name, the files that hold parts of it, relative to `path`.
    """
    held = write_dcp(path / "pytorch_model_fsdp_0", {"model": of}, ranks=ranks)
    write_dcp(path / "optimizer_0", {"optimizer": nested_optimizer(of, step)}, ranks=ranks)
    return {
        name: tuple(os.path.join("pytorch_model_fsdp_0", one) for one in files)
        for name, files in held.items()
    }


def make_megatron(directory: Path, *, step: int = 10, ranks: int = 2, integrity: bool = False) -> Made:
    """`iter_0000010` of Megatron-Core 0.15 with `--ckpt-format torch_dist` (core/dist_checkpointing/).

    `core.py`: `metadata.json` with the four keys of `CheckpointingConfig`; strategies/common.py: `common.pt`;
    strategies/torch.py: `.metadata` without `planner_data` (`flatten_state_dict=False`), two files a rank
    (`thread_count=2`), layers stacked into one tensor, objects of each rank as `NAME/shard_N_M`, and
    `mcore_data`, an attribute that torch does not know. Beside the folder, training/checkpointing.py writes
    `latest_checkpointed_iteration.txt`. integrity.py of 2026: `integrity.json` with each file's SHA-256.
    """
    path = folder(directory / f"iter_{step:07d}")
    generator = torch.Generator().manual_seed(step)
    of = {
        "embedding.word_embeddings.weight": torch.randn(8, 4, generator=generator),
        "decoder.layers.self_attention.linear_qkv.weight": torch.randn(2, 12, 4, generator=generator),
        "decoder.final_layernorm.weight": torch.randn(4, generator=generator),
    }
    optimizer = {
        f"optimizer.state.{key}.{name}": one * 0.5
        for key in ("exp_avg", "exp_avg_sq", "fp32_param")
        for name, one in of.items()
    }
    extra = {
        f"decoder.layers.self_attention.linear_qkv._extra_state/shard_{number}_2": None for number in range(2)
    } | {"rng_state/shard_0.0_1.1": [{"random_rng_state": random_state()[0]}]}
    holders = write_dcp(
        path,
        {**of, **optimizer, **extra},
        ranks=ranks,
        flatten=False,
        files_a_rank=2,
        extra={"mcore_data": {}},
    )
    torch.save({"iteration": step, "checkpoint_version": 3.0, "args": {"num_layers": 2}}, path / "common.pt")
    config = {
        "sharded_backend": "torch_dist", "sharded_backend_version": 1,
        "common_backend": "torch", "common_backend_version": 1,
    }  # fmt: skip
    (path / "metadata.json").write_text(json.dumps(config), encoding="utf-8")
    if integrity:
        digests = {
            name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in sorted(os.listdir(path))
        }
        write_json(
            path / "integrity.json", {"algorithm": "sha256", "files": digests}, end="", sort_keys=False
        )
    (directory / "latest_checkpointed_iteration.txt").write_text(str(step), encoding="ascii")
    return Made(path=path, layout="megatron", weights=of, step=step, holders=holders)


def make_hugging_face_shards(directory: Path, *, step: int = 4, ranks: int = 2) -> Made:
    """Shards by rank without an index (torch 2.13, distributed/checkpoint/hf_storage.py)."""
    path, of = directory / f"step-{step}", weights(step)
    holders = write_hugging_face_shards(path, of, ranks=ranks)
    return Made(path=path, layout="dcp-hugging-face", weights=of, holders=holders)


def make_merged(directory: Path, *, step: int = 4, ranks: int = 2) -> Made:
    """The same merged, as by torchtitan's `last_save_in_hf`: HF shards, an index, and `sharded/` beside."""
    path, of = directory / f"step-{step}", weights(step)
    holders = write_merged(path, of, ranks=ranks)
    spare = frozenset(f"sharded/{name}" for name in os.listdir(path / "sharded"))
    return Made(path=path, layout="sharded", weights=of, holders=holders, spare=spare)
