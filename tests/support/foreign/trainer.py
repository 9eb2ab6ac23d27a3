"""`checkpoint-N` of the Trainer of Transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .dcp_folders import write_fsdp
from .deepspeed import write_deepspeed
from .hugging_face import SPARE, adapter_weights, write_adapter, write_model
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
    write_json,
)


def metrics_at(step: int) -> dict[str, float]:
    """The metrics of the evaluation at a step: the loss falls."""
    return {
        "eval_loss": 4.0 / step, "eval_runtime": 0.5, "eval_samples_per_second": 16.0,
        "eval_steps_per_second": 2.0,
    }  # fmt: skip


def trainer_state(step: int, best: str | None, every: int = 2, most: int = 4) -> dict[str, Any]:
    """What `TrainerState.save_to_json` writes (transformers 5.24, trainer_callback.py)."""
    history: list[dict[str, float]] = []
    for one in range(1, step + 1):
        history.append(
            {"epoch": one / 4, "grad_norm": 2.5, "learning_rate": 5e-05, "loss": 4.5 / one, "step": one}
        )
        if one % every == 0:
            history.append({"epoch": one / 4, **metrics_at(one), "step": one})
    control = {
        "should_epoch_stop": False, "should_evaluate": False, "should_log": False, "should_save": True,
        "should_training_stop": step == most,
    }  # fmt: skip
    return {
        "best_global_step": step if best else None,
        "best_metric": metrics_at(step)["eval_loss"] if best else None, "best_model_checkpoint": best,
        "epoch": step / 4, "eval_steps": every, "global_step": step, "is_hyper_param_search": False,
        "is_local_process_zero": True, "is_world_process_zero": True, "log_history": history,
        "logging_steps": 1, "max_steps": most, "num_input_tokens_seen": 0, "num_train_epochs": 1,
        "save_steps": every,
        "stateful_callbacks": {"TrainerControl": {"args": control, "attributes": {}}},
        "total_flos": 2531328.0, "train_batch_size": 2, "trial_name": None, "trial_params": None,
    }  # fmt: skip


def _common(
    path: Path, step: int, *, ranks: int = 1, only_model: bool = False, scheduler: bool = True
) -> None:
    """What each `checkpoint-N` has beside the model and the optimizer (transformers 5.24, trainer.py)."""
    best = str(path)
    write_json(path / "trainer_state.json", trainer_state(step, best))
    with foreign_class("transformers.training_args", "TrainingArguments") as arguments:
        one = arguments()
        vars(one).update(output_dir=str(path.parent), max_steps=4, save_steps=2)
        torch.save(one, path / "training_args.bin")
    if only_model:
        return
    python, numpy, cpu = random_state()
    for rank in range(ranks):
        name = "rng_state.pth" if ranks == 1 else f"rng_state_{rank}.pth"
        torch.save({"python": python, "numpy": numpy, "cpu": cpu}, path / name)
    if scheduler:
        torch.save(scheduler_state(step), path / "scheduler.pt")


def _made(
    path: Path, of: Tensors, step: int, holders: dict[str, tuple[str, ...]], *, spare: frozenset[str] = SPARE
) -> Made:
    return Made(
        path=path, layout="trainer", weights=of, step=step, metrics=metrics_at(step), holders=holders,
        spare=spare,
    )  # fmt: skip


def make_trainer(
    directory: Path,
    *,
    step: int = 4,
    shards: int = 1,
    ranks: int = 1,
    only_model: bool = False,
    scaler: bool = False,
) -> Made:
    """`checkpoint-4` (transformers 5.24, trainer.py, `_save_checkpoint`).

    Args:
        directory: The `output_dir`.
        step: Of the checkpoint.
        shards: Of the model; more than one as with a model above `max_shard_size`.
        ranks: Of several processes each saves its `rng_state_R.pth`.
        only_model: As `save_only_model=True`: no optimizer, scheduler, scaler and random state.
        scaler: As with `fp16=True` on a GPU: `scaler.pt`.

    Returns:
        The checkpoint.
    """
    path, of = folder(directory / f"checkpoint-{step}"), weights(step)
    holders = write_model(path, of, shards=shards)
    _common(path, step, ranks=ranks, only_model=only_model)
    if not only_model:
        torch.save(optimizer_state(of, step), path / "optimizer.pt")
    if scaler:
        state = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
        torch.save({**state, "_growth_tracker": step}, path / "scaler.pt")
    return _made(path, of, step, holders)


def make_trainer_only_model(directory: Path, *, step: int = 4) -> Made:
    """With `save_only_model=True`, complete without an optimizer (transformers 5.24, trainer.py)."""
    return make_trainer(directory, step=step, only_model=True)


def make_trainer_of_ranks(directory: Path, *, step: int = 4) -> Made:
    """`checkpoint-4` of two processes with a model in shards and a scaler (transformers 5.24, trainer.py)."""
    return make_trainer(directory, step=step, shards=3, ranks=2, scaler=True)


def make_trainer_adapter(directory: Path, *, step: int = 4) -> Made:
    """`checkpoint-4` of a PEFT model: the adapter in place of the model, and no `config.json`."""
    path, of = folder(directory / f"checkpoint-{step}"), adapter_weights(step)
    holders = write_adapter(path, of)
    _common(path, step)
    torch.save(optimizer_state(of, step), path / "optimizer.pt")
    return _made(path, of, step, holders)


def make_trainer_fsdp(directory: Path, *, step: int = 4, ranks: int = 2) -> Made:
    """`checkpoint-4` with FSDP and `SHARDED_STATE_DICT`: nested DCP folders, and no `config.json`.

    transformers 5.24, trainer.py: `save_model` writes nothing in this case, not even `training_args.bin`;
    `_save_optimizer_and_scheduler` calls `save_fsdp_model` and `save_fsdp_optimizer`.
    """
    path, of = folder(directory / f"checkpoint-{step}"), weights(step)
    holders = write_fsdp(path, of, step, ranks=ranks)
    _common(path, step, ranks=ranks)
    (path / "training_args.bin").unlink()
    held = {name: holders[name] for name in prefixed(of, "model.")}
    return _made(path, prefixed(of, "model."), step, held)


def make_trainer_deepspeed(directory: Path, *, step: int = 4, ranks: int = 2) -> Made:
    """`checkpoint-4` with DeepSpeed's ZeRO-2: the model, and `global_step4/` with `latest` inside.

    transformers 5.24, trainer.py: `self.model_wrapped.save_checkpoint(output_dir)`.
    """
    path, of = folder(directory / f"checkpoint-{step}"), weights(step)
    holders = write_model(path, of)
    _common(path, step, ranks=ranks)
    write_deepspeed(path, of, step=step, ranks=ranks, stage=2)
    return _made(path, of, step, holders, spare=SPARE | {"zero_to_fp32.py"})
