"""Who writes the files whose bits are flipped, and who loads them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import marlin_ckpt
from benchmarks.states import flat

State = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """A writer and a loader.

    Attributes:
        written_by: the function that writes, by the name that its users call it by.
        loaded_by: the function that loads.
        save: saves a state under a path, which may become a folder.
        load: loads what is there; the state is the one that was saved, for those who need to know its form.
        holds: the part of the state that the format can hold.
        every: flips one bit of so many, where a load takes long; by default each.
    """

    written_by: str
    loaded_by: str
    save: Callable[[State, Path], object]
    load: Callable[[State, Path], State]
    holds: Callable[[State], State]
    every: int = 1


def small_state(width: int) -> State:
    """A linear layer, its AdamW after one step, and a counter."""
    torch.manual_seed(0)
    module = torch.nn.Linear(width, width)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, width)).square().sum().backward()
    optimizer.step()
    return {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}


def pairs() -> list[Pair]:
    """Each format with its own loader, and the file of `torch.save` with ours, too."""
    safetensors = import_module("safetensors.torch")
    return [
        Pair("torch.save", "torch.load", torch.save, lambda _, path: _a_dict(torch.load(path)), _everything),
        Pair(
            "safetensors save_file",
            "load_file",
            safetensors.save_file,
            lambda _, path: _a_dict(safetensors.load_file(path)),
            lambda state: dict(flat(state)),
        ),
        Pair("torch.distributed.checkpoint save", "load", _save_folder, _load_folder, _everything, 9),
        Pair("torch.save", "marlin_ckpt.load", torch.save, _load_ours, _everything),
        Pair("marlin_ckpt.save", "marlin_ckpt.load", marlin_ckpt.save, _load_ours, _everything),
    ]


def _everything(state: State) -> State:
    return state


def _load_ours(_: State, path: Path) -> State:
    return _a_dict(marlin_ckpt.load(path))


def _save_folder(state: State, path: Path) -> None:
    # It warns at each call that it works for a single process, as it is asked to.
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
    import_module("torch.distributed.checkpoint").save(state, checkpoint_id=path)


def _load_folder(state: State, path: Path) -> State:
    loaded = copy.deepcopy(state)
    for _, tensor in flat(loaded):
        tensor.zero_()
    loaded["epoch"] = 0
    import_module("torch.distributed.checkpoint").load(loaded, checkpoint_id=path)
    return loaded


def _a_dict(loaded: Any) -> State:
    return loaded if isinstance(loaded, dict) else {"": loaded}
