"""What 20 checkpoints of a LoRA run take of the disk: `python -m benchmarks.adapted DIRECTORY`.

A GPT-2 of random weights with an adapter of PEFT, trained by the Trainer of Transformers, and by a loop; the
directory is best on XFS or btrfs. It prints a line for each way to save, of which the first two of each kind
are stock and ours.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.integrations.transformers import protect

_SAVES = 20
_LITTLE_BYTES = 1 << 20  # for directories, and what else stays
_SHAPE = {"n_embd": 512, "n_layer": 12, "n_head": 8, "vocab_size": 20_000, "n_positions": 64}
_ROWS = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * _SAVES


def _adapted() -> Any:
    torch.manual_seed(0)
    return get_peft_model(
        GPT2LMHeadModel(GPT2Config(**_SHAPE)), LoraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True)
    )


def _partly_frozen() -> Any:
    """As it is trained without PEFT: all of it is saved each time."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**_SHAPE)).requires_grad_(requires_grad=False)
    model.transformer.ln_f.requires_grad_(requires_grad=True)
    return model


class _Saves(TrainerCallback):  # type: ignore[misc]
    """Saves the whole state after each step, beside or in place of what the Trainer saves."""

    def __init__(self, checkpoints: CheckpointDirectory) -> None:
        self._checkpoints = checkpoints

    def on_step_end(self, _args: Any, state: Any, _control: Any, **live: Any) -> None:
        whole = {name: live[name] for name in ("model", "optimizer", "lr_scheduler")}
        self._checkpoints.save(whole, state.global_step)


def _trained(directory: Path, make: Callable[[], Any], *, is_ours: bool, by_callback: bool = False) -> None:
    args = TrainingArguments(
        str(directory), save_strategy="no" if by_callback else "steps", save_steps=1, report_to=[],
        per_device_train_batch_size=1, num_train_epochs=1, use_cpu=True, disable_tqdm=True,
        logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(make(), args, train_dataset=_ROWS)
    if by_callback:
        with CheckpointDirectory(directory, share_unchanged=True) as checkpoints:
            trainer.add_callback(_Saves(checkpoints))
            trainer.train()
    else:
        (protect(trainer) if is_ours else trainer).train()


def _looped(directory: Path, save: Callable[[Any, int], object]) -> None:
    directory.mkdir()
    model = _adapted()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
    for step in range(1, _SAVES + 1):
        model(**{name: one[None] for name, one in _ROWS[0].items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, step)


def _by_torch(directory: Path) -> None:
    _looped(directory, lambda state, step: torch.save(state, directory / f"model_{step}.pt"))


def _by_us(directory: Path, keep: int | None) -> None:
    with CheckpointDirectory(directory, keep=keep, share_unchanged=True) as checkpoints:
        _looped(directory, checkpoints.save)


def _by_torch_but(directory: Path, keep: int) -> None:
    def save(state: Any, step: int) -> None:
        torch.save(state, directory / f"model_{step}.pt")
        (directory / f"model_{step - keep}.pt").unlink(missing_ok=True)

    _looped(directory, save)


_WAYS: dict[str, Callable[[Path], None]] = {
    "a loop, torch.save": _by_torch,
    "a loop, CheckpointDirectory": functools.partial(_by_us, keep=None),
    "a loop that keeps 3, torch.save": functools.partial(_by_torch_but, keep=3),
    "a loop that keeps 3, CheckpointDirectory": functools.partial(_by_us, keep=3),
    "Trainer and PEFT": functools.partial(_trained, make=_adapted, is_ours=False),
    "Trainer and PEFT, protect": functools.partial(_trained, make=_adapted, is_ours=True),
    "Trainer, partly frozen": functools.partial(_trained, make=_partly_frozen, is_ours=False),
    "Trainer, partly frozen, protect": functools.partial(_trained, make=_partly_frozen, is_ours=True),
    "Trainer, partly frozen, CheckpointDirectory in a callback": functools.partial(
        _trained, make=_partly_frozen, is_ours=True, by_callback=True
    ),
}


def main(directory: str) -> None:
    warnings.simplefilter("ignore")  # of other packages
    model = _adapted()
    size = sum(one.nbytes for one in model.parameters())
    trained = sum(one.nbytes for one in model.parameters() if one.requires_grad)
    print(f"{size / 1e6:.0f} MB, of which {trained / 1e6:.1f} MB are trained; {_SAVES} saves")
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        empty = _free_bytes(folder)
        for name, way in _WAYS.items():
            while (before := _free_bytes(folder)) < empty - _LITTLE_BYTES:  # XFS gives back behind `unlink`
                time.sleep(0.1)
            began = time.perf_counter()
            way(Path(folder, "run"))
            took = time.perf_counter() - began
            print(f"{(before - _free_bytes(folder)) / 1e6:8.0f} MB  {took:6.1f} s  {name}", flush=True)
            shutil.rmtree(Path(folder, "run"))


def _free_bytes(directory: str) -> int:
    os.sync()
    found = os.statvfs(directory)
    return found.f_bfree * found.f_frsize


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["."])
