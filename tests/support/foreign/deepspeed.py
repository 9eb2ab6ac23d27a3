"""`global_stepN` of DeepSpeed, by hand, after its documented shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .made import Made, Tensors, folder, scheduler_state, weights

_SCRIPT = (
    "#!/usr/bin/env python\n# Copyright (c) Microsoft Corporation.\n# SPDX-License-Identifier: Apache-2.0\n"
)


def _flat_parts(of: Tensors, ranks: int, stage: int) -> list[torch.Tensor]:
    """The float32 copy of all weights, one flat part for each rank.

    ZeRO 1 and 2 cut the whole, padded to a multiple of twice the ranks; ZeRO 3 cuts each weight, padded to a
    multiple of the ranks (deepspeed 0.18, utils/zero_to_fp32.py).
    """
    if stage == 3:
        cut = []
        for one in of.values():
            flat = one.float().flatten()
            padded = torch.nn.functional.pad(flat, (0, -len(flat) % ranks))
            cut.append(padded.chunk(ranks))
        return [torch.cat([parts[rank] for parts in cut]) for rank in range(ranks)]
    flat = torch.cat([one.float().flatten() for one in of.values()])
    return list(torch.nn.functional.pad(flat, (0, -len(flat) % (2 * ranks))).chunk(ranks))


def write_deepspeed(
    path: Path,
    of: Tensors,
    *,
    step: int,
    ranks: int = 2,
    stage: int = 2,
    kind: str = "bf16_",
    tag: str | None = None,
) -> dict[str, tuple[str, ...]]:
    """Writes what `DeepSpeedEngine.save_checkpoint(path)` does (deepspeed 0.18, runtime/engine.py).

    `{tag}/mp_rank_00_model_states.pt` (ZeRO 3: `zero_pp_rank_R_mp_rank_00_model_states.pt` for each rank),
    `{tag}/{kind}zero_pp_rank_R_mp_rank_00_optim_states.pt` for each rank, and beside the tag's folder
    `latest`, which names it, and `zero_to_fp32.py`, a program.

    Args:
        path: The folder of the run, which need not be there.
        of: The weights.
        step: `global_steps`.
        ranks: How many data-parallel ranks save.
        stage: Of ZeRO, 1 to 3; 0 for none, whose optimizer is in the model's file.
        kind: `bf16_` with bfloat16, or nothing.
        tag: The name of its folder; `global_step{step}` by default.

    Returns:
        For each weight the files that hold it, relative to `path`.
    """
    tag = tag or f"global_step{step}"
    inner = folder(path / tag)
    shapes = [{name: one.shape for name, one in of.items()}]
    holders: dict[str, list[str]] = {name: [] for name in of}
    for rank in range(ranks if stage == 3 else 1):
        name = (
            f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
        )
        kept: dict[str, Any] = {one: torch.empty(0, dtype=torch.bfloat16) for one in of} if stage == 3 else of
        state = {
            "module": kept, "buffer_names": [], "optimizer": {} if stage == 0 else None,
            "param_shapes": shapes, "frozen_param_shapes": None, "shared_params": {},
            "frozen_param_fragments": None,
            "lr_scheduler": scheduler_state(step), "data_sampler": None, "random_ltd": None,
            "sparse_tensor_module_names": set(), "skipped_steps": 0, "global_steps": step,
            "global_samples": 8 * step, "dp_world_size": ranks, "mp_world_size": 1,
            "ds_config": {"zero_optimization": {"stage": stage}},
            "ds_version": "0.18.2",
        }  # fmt: skip
        torch.save(state, inner / name)
        if stage < 3:
            holders = {one: [f"{tag}/{name}"] for one in of}
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    for rank, part in enumerate(_flat_parts(of, ranks, stage) if stage else []):
        base = {0: {"step": torch.tensor(float(step)), "exp_avg": part * 0.5, "exp_avg_sq": part * part}}
        optimizer = {
            "loss_scaler": None, "dynamic_loss_scale": False, "overflow": False, "clip_grad": 1.0,
            "optimizer_state_dict" if stage == 3 else "base_optimizer_state": {"state": base},
            key: [part], "zero_stage": stage, "partition_count": ranks if stage == 3 else [ranks],
            "group_paddings": [0], "ds_version": "0.18.2",
        }  # fmt: skip
        name = f"{kind}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": optimizer, "ds_config": {}, "ds_version": "0.18.2"}, inner / name)
        if stage == 3:
            for one in of:
                holders[one].append(f"{tag}/{name}")
    (path / "latest").write_text(tag, encoding="utf-8")
    (path / "zero_to_fp32.py").write_text(_SCRIPT, encoding="utf-8")
    (path / "zero_to_fp32.py").chmod(0o755)
    return {name: tuple(files) for name, files in holders.items()}


def make_deepspeed(directory: Path, *, step: int = 4, **options: Any) -> Made:
    """A run with `global_step4/`, `latest` and `zero_to_fp32.py` (deepspeed 0.18, runtime/engine.py).

    `path` is the tag's folder; `latest` is beside it, so each later step overwrites what it says.
    """
    of = weights(step, torch.bfloat16)
    held = write_deepspeed(directory, of, step=step, **options)
    path = directory / options.get("tag", f"global_step{step}")
    holders = {name: tuple(one.partition("/")[2] for one in files) for name, files in held.items()}
    return Made(path=path, layout="deepspeed", weights=of, step=step, holders=holders)


def make_zero3(directory: Path, *, step: int = 4, ranks: int = 2) -> Made:
    """The same with ZeRO-3: each rank has a file of the model, and the optimizers' files hold the weights."""
    return make_deepspeed(directory, step=step, ranks=ranks, stage=3)


def make_zero_in_fp16(directory: Path, *, step: int = 4, ranks: int = 2) -> Made:
    """The same with ZeRO-1 in float16: `zero_pp_rank_R_mp_rank_00_optim_states.pt` without a prefix."""
    return make_deepspeed(directory, step=step, ranks=ranks, stage=1, kind="")
