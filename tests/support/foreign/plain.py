"""Single files that well-known training programs write with `torch.save`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from .made import Made, Tensors, folder, optimizer_state, weights


def _file(path: Path, layout: str, content: Any, of: Tensors, step: int, **options: Any) -> Made:
    folder(path.parent)
    torch.save(content, path)
    return Made(
        path=path, layout=layout, weights=of, step=step, holders=dict.fromkeys(of, (path.name,)), **options
    )


def make_nanogpt(directory: Path, *, step: int = 2000) -> Made:
    """`ckpt.pt`, which each save overwrites (nanoGPT, train.py)."""
    of = weights(step)
    content = {
        "model": of,
        "optimizer": optimizer_state(of, step),
        "model_args": {
            "n_layer": 1,
            "n_head": 1,
            "n_embd": 4,
            "block_size": 8,
            "bias": False,
            "vocab_size": 8,
        },
        "iter_num": step,
        "best_val_loss": torch.tensor(1.25),
        "config": {"out_dir": "out", "eval_interval": 2000, "dataset": "shakespeare", "dtype": "float32"},
    }
    held = {f"model.{name}": one for name, one in of.items()}
    return _file(directory / "out" / "ckpt.pt", "nanogpt", content, held, step)


def make_timm(directory: Path, *, epoch: int = 3, name: str | None = None) -> Made:
    """`checkpoint-3.pth.tar` (timm 1.0, utils/checkpoint_saver.py, `CheckpointSaver._save`).

    Beside it are `last.pth.tar` and `model_best.pth.tar` of the same shape.
    """
    of = {
        "conv_stem.weight": weights(epoch)["lm_head.weight"],
        "bn1.num_batches_tracked": torch.tensor(epoch),
    }
    content = {
        "epoch": epoch, "arch": "resnet10t", "state_dict": of, "optimizer": optimizer_state(of, epoch),
        "version": 2, "args": argparse.Namespace(model="resnet10t", lr=0.05, epochs=10), "metric": 71.5,
    }  # fmt: skip
    held = {f"state_dict.{one}": value for one, value in of.items()}
    path = directory / "train" / (name or f"checkpoint-{epoch}.pth.tar")
    return _file(path, "timm", content, held, epoch, metrics={"metric": 71.5})


def make_ignite(directory: Path, *, step: int = 8) -> Made:
    """`checkpoint_8.pt` (ignite 0.5, handlers/checkpoint.py, with several objects in `to_save`)."""
    of = weights(step)
    content = {
        "model": of, "optimizer": optimizer_state(of, step),
        "trainer": {"epoch_length": 4, "max_epochs": 3, "iteration": step},
    }  # fmt: skip
    held = {f"model.{name}": one for name, one in of.items()}
    return _file(directory / "ignite" / f"checkpoint_{step}.pt", "ignite", content, held, step)


def make_ignite_model(directory: Path, *, step: int = 8) -> Made:
    """`best_model_8_val_loss=-0.2500.pt`: one object with a score (ignite 0.5, handlers/checkpoint.py)."""
    of = weights(step)
    path = directory / "ignite" / f"best_model_{step}_val_loss=-0.2500.pt"
    return _file(path, "ignite", of, of, step, metrics={"val_loss": -0.25})
