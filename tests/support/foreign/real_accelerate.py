"""Folders that `Accelerator.save_state` writes itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration

from .made import Made, Tensors


class Counter:
    """An object that is registered for checkpointing."""

    def state_dict(self) -> dict[str, int]:
        return {"done": 3}

    def load_state_dict(self, state: dict[str, int]) -> None:
        assert state == {"done": 3}


def save(
    directory: Path, *, models: int = 1, safe: bool = True, name: str | None = None, **options: Any
) -> tuple[Path, list[Tensors]]:
    """Trains for two steps and saves once.

    Args:
        directory: The `project_dir`.
        models: How many models, each with an optimizer and a scheduler.
        safe: Whether models are saved as safetensors.
        name: A folder to save into, in place of `checkpoints/checkpoint_0`.
        **options: Of `Accelerator`.

    Returns:
        The folder, and the weights of each model.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    config = ProjectConfiguration(str(directory), automatic_checkpoint_naming=name is None)
    one = Accelerator(cpu=True, project_config=config, **options)
    torch.manual_seed(0)
    trained = [torch.nn.Linear(3, 2) for _ in range(models)]
    optimizers = [torch.optim.AdamW(of.parameters(), lr=0.1) for of in trained]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(of, lambda _: 1.0) for of in optimizers]
    rows = torch.utils.data.TensorDataset(torch.randn(8, 3))
    loader = one.prepare(torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True))
    trained = [one.prepare(of) for of in trained]
    optimizers, schedulers = [one.prepare(of) for of in optimizers], [one.prepare(of) for of in schedulers]
    one.register_for_checkpointing(Counter())
    for (batch,) in loader:
        for of, optimizer, scheduler in zip(trained, optimizers, schedulers, strict=True):
            one.backward(of(batch).square().mean())
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    one.save_state(str(directory / name) if name else None, safe_serialization=safe)
    path = directory / (name or "checkpoints/checkpoint_0")
    return path, [{key: value.clone() for key, value in of.state_dict().items()} for of in trained]


def _made(path: Path, of: list[Tensors], *, safe: bool = True, step: int | None = 0) -> Made:
    stem, extension = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    held: Tensors = {}
    holders: dict[str, tuple[str, ...]] = {}
    for number, one in enumerate(of):
        numbered = stem if number == 0 else f"{stem}_{number}"
        named = {name if number == 0 else f"{numbered}.{name}": value for name, value in one.items()}
        held |= named
        holders |= dict.fromkeys(named, (f"{numbered}.{extension}",))
    return Made(path=path, layout="accelerate", weights=held, step=step, holders=holders)


def make_accelerate(directory: Path) -> Made:
    """A model, an optimizer, a scheduler, an object of the user's."""
    return _made(*save(directory))


def make_accelerate_bin(directory: Path) -> Made:
    """The same with `safe_serialization=False`."""
    return _made(*save(directory, safe=False), safe=False)


def make_accelerate_named(directory: Path) -> Made:
    """The same in a folder that the user names."""
    return _made(*save(directory, name="step_3"), step=None)


def make_accelerate_of_two(directory: Path) -> Made:
    """Two models, and a stateful loader where torchdata is there; no scaler, for there is no GPU."""
    has_torchdata = importlib.util.find_spec("torchdata") is not None
    loading = DataLoaderConfiguration(use_stateful_dataloader=has_torchdata)
    return _made(*save(directory, models=2, dataloader_config=loading))
