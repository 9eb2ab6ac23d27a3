"""Checkpoints of Lightning: `.ckpt` files, and folders of its sharded strategies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .dcp_folders import nested_optimizer
from .dcp_writing import write_dcp
from .made import Made, folder, optimizer_state, prefixed, scheduler_state, weights


def progress(step: int) -> dict[str, Any]:
    """A part of `loops` (lightning 2.6, pytorch/loops/progress.py)."""
    counts = {"ready": step, "completed": step, "started": step, "processed": step}
    return {"total": counts, "current": dict(counts), "is_last_batch": True}


def dumped(step: int, epoch: int, path: Path) -> dict[str, Any]:
    """All but the state of the model and of the optimizers (lightning 2.6, checkpoint_connector.py)."""
    key = (
        "ModelCheckpoint{'monitor': 'loss', 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
        "'train_time_interval': None}"
    )
    callback = {
        "monitor": "loss", "best_model_score": torch.tensor(0.5), "best_model_path": str(path),
        "current_score": torch.tensor(0.5), "dirpath": str(path.parent), "best_k_models": {},
        "kth_best_model_path": str(path), "kth_value": torch.tensor(0.5), "last_model_path": "",
    }  # fmt: skip
    return {
        "epoch": epoch, "global_step": step, "pytorch-lightning_version": "2.6.6",
        "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.batch_progress": progress(step)}},
        "callbacks": {key: callback}, "lr_schedulers": [scheduler_state(step)],
        "hparams_name": "kwargs", "hyper_parameters": {"width": 4},
    }  # fmt: skip


def make_lightning(directory: Path, *, step: int = 6, epoch: int = 2, name: str | None = None) -> Made:
    """`epoch=2-step=6.ckpt` of ModelCheckpoint (lightning 2.6, checkpoint_connector.py)."""
    path, of = folder(directory) / (name or f"epoch={epoch}-step={step}.ckpt"), weights(step)
    content = dumped(step, epoch, path)
    content |= {"state_dict": of, "optimizer_states": [optimizer_state(of, step)]}
    torch.save(content, path)
    held = prefixed(of, "state_dict.")
    holders = dict.fromkeys(held, (path.name,))
    return Made(path=path, layout="lightning", weights=held, step=step, holders=holders)


def make_lightning_sharded(
    directory: Path, *, step: int = 6, epoch: int = 2, ranks: int = 2, key: str = "state_dict"
) -> Made:
    """The folder `epoch=2-step=6.ckpt`: DCP with `meta.pt` (lightning 2.6, strategies/model_parallel.py).

    ModelParallelStrategy saves the model under `state_dict`, FSDPStrategy with `state_dict_type="sharded"`
    under `model` (strategies/fsdp.py); both each optimizer under `optimizer_0`. `meta.pt` is the rest.
    """
    path, of = folder(directory / f"epoch={epoch}-step={step}.ckpt"), weights(step)
    holders = write_dcp(path, {key: of, "optimizer_0": nested_optimizer(of, step)}, ranks=ranks)
    torch.save(dumped(step, epoch, path), path / "meta.pt")
    held = prefixed(of, f"{key}.")
    return Made(
        path=path,
        layout="lightning-sharded",
        weights=held,
        step=step,
        holders={one: holders[one] for one in held},
    )


def make_lightning_fsdp(directory: Path, *, step: int = 6) -> Made:
    """The same by FSDPStrategy, with the model under `model` (lightning 2.6, pytorch/strategies/fsdp.py)."""
    return make_lightning_sharded(directory, step=step, key="model")
