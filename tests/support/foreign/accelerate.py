"""Folders of `Accelerator.save_state`."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from .dcp_folders import write_fsdp
from .made import (
    Made,
    Tensors,
    folder,
    foreign_class,
    optimizer_state,
    prefixed,
    random_state,
    scheduler_state,
    weights,
)


def _numbered(stem: str, number: int, extension: str) -> str:
    """`optimizer.bin`, then `optimizer_1.bin`."""
    return f"{stem}.{extension}" if number == 0 else f"{stem}_{number}.{extension}"


def _common(path: Path, step: int, *, models: int, ranks: int, custom: int, scaler: bool = False) -> None:
    """What each folder has beside models and optimizers (accelerate 1.15, checkpointing.py)."""
    python, numpy, cpu = random_state()
    for number in range(models):
        torch.save(scheduler_state(step), path / _numbered("scheduler", number, "bin"))
    for rank in range(ranks):
        state = {"step": 0, "random_state": python, "numpy_random_seed": numpy, "torch_manual_seed": cpu}
        torch.save(state, path / f"random_states_{rank}.pkl")
    for number in range(custom):
        torch.save({"done": step}, path / f"custom_checkpoint_{number}.pkl")
    if scaler:
        torch.save({"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0}, path / "scaler.pt")


def make_accelerate(
    directory: Path,
    *,
    step: int = 3,
    models: int = 1,
    ranks: int = 1,
    custom: int = 1,
    safe: bool = True,
    samplers: int = 0,
    loaders: int = 0,
    scaler: bool = False,
    name: str | None = None,
) -> Made:
    """`checkpoints/checkpoint_3` (accelerate 1.15, checkpointing.py, `save_accelerator_state`).

    Args:
        directory: The `project_dir`.
        step: The number of the save, `save_iteration`; 0 is the first.
        models: How many models, each with an optimizer and a scheduler; the second is `model_1.safetensors`.
        ranks: Each process saves its `random_states_R.pkl`.
        custom: How many objects are registered for checkpointing.
        safe: `safe_serialization`; without it `pytorch_model.bin`.
        samplers: As with `use_seedable_sampler=True` and an iterable dataset: `sampler.bin`, an object.
        loaders: As with `use_stateful_dataloader=True`: `dl_state_dict.bin`.
        scaler: As with `mixed_precision="fp16"` on a GPU: `scaler.pt`.
        name: A folder that the user names, in place of `checkpoints/checkpoint_3`.

    Returns:
        The checkpoint. The names of weights of the second model and later have its file before them.
    """
    path = folder(directory / (name or f"checkpoints/checkpoint_{step}"))
    held: Tensors = {}
    holders: dict[str, tuple[str, ...]] = {}
    for number in range(models):
        of = weights(step + 100 * number)
        file = (
            _numbered("model", number, "safetensors") if safe else _numbered("pytorch_model", number, "bin")
        )
        if safe:
            save_file(of, path / file, metadata={"format": "pt"})
        else:
            torch.save(of, path / file)
        torch.save(optimizer_state(of, step), path / _numbered("optimizer", number, "bin"))
        named = of if number == 0 else prefixed(of, f"{file.partition('.')[0]}.")
        held |= named
        holders |= dict.fromkeys(named, (file,))
    _common(path, step, models=models, ranks=ranks, custom=custom, scaler=scaler)
    for number in range(samplers):
        with foreign_class("accelerate.data_loader", "SeedableRandomSampler") as sampler:
            torch.save(sampler(), path / _numbered("sampler", number, "bin"))
    for number in range(loaders):
        torch.save({"_snapshot": {"_snapshot_step": 2}}, path / _numbered("dl_state_dict", number, "bin"))
    return Made(path=path, layout="accelerate", weights=held, step=None if name else step, holders=holders)


def make_accelerate_of_two(directory: Path, *, step: int = 3) -> Made:
    """All that may be there: two models, two processes, a sampler, a loader, a scaler, two objects."""
    return make_accelerate(
        directory, step=step, models=2, ranks=2, custom=2, samplers=1, loaders=1, scaler=True
    )


def make_accelerate_bin(directory: Path, *, step: int = 3) -> Made:
    """`safe_serialization=False`: `pytorch_model.bin` (accelerate 1.15, checkpointing.py)."""
    return make_accelerate(directory, step=step, safe=False)


def make_accelerate_named(directory: Path, *, step: int = 3) -> Made:
    """`save_state("step_3")`: the user's own name, and nothing in it states the step."""
    return make_accelerate(directory, step=step, name=f"step_{step}")


def make_accelerate_fsdp(directory: Path, *, step: int = 3, ranks: int = 2) -> Made:
    """With FSDP's `SHARDED_STATE_DICT`: nested DCP folders (accelerate 1.15, utils/fsdp_utils.py)."""
    path, of = folder(directory / f"checkpoints/checkpoint_{step}"), weights(step)
    holders = write_fsdp(path, of, step, ranks=ranks)
    _common(path, step, models=1, ranks=ranks, custom=1)
    held = prefixed(of, "model.")
    return Made(
        path=path, layout="accelerate", weights=held, step=step, holders={one: holders[one] for one in held}
    )


def make_accelerate_full_fsdp(directory: Path, *, step: int = 3, ranks: int = 2) -> Made:
    """With FSDP's `FULL_STATE_DICT`: `pytorch_model_fsdp.bin` (accelerate 1.15, utils/fsdp_utils.py)."""
    path, of = folder(directory / f"checkpoints/checkpoint_{step}"), weights(step)
    torch.save(of, path / "pytorch_model_fsdp.bin")
    torch.save(optimizer_state(of, step), path / "optimizer.bin")
    _common(path, step, models=1, ranks=ranks, custom=1)
    holders = dict.fromkeys(of, ("pytorch_model_fsdp.bin",))
    return Made(path=path, layout="accelerate", weights=of, step=step, holders=holders)
