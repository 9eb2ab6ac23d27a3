"""What the makers of other tools' checkpoints share."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import random
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """One checkpoint that a maker has written.

    Attributes:
        path: What a user names: the folder, or the file.
        layout: One word for the layout, the maker's.
        weights: The weights of the model or models, whole, by the names under which they are stored.
        step: The step that its names or its JSON state, None where nothing does.
        metrics: The metrics that its JSON states.
        holders: For each weight the files that hold it or parts of it, relative to `path`.
        spare: The files that nobody needs to load it: notes, generated scripts, settings of the run.
    """

    path: Path
    layout: str
    weights: Tensors
    step: int | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    holders: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    spare: frozenset[str] = frozenset()

    @property
    def files(self) -> list[str]:
        """All that is in it, relative to `path`, in order; of a file its own name."""
        if self.path.is_file():
            return [self.path.name]
        return sorted(
            os.path.relpath(os.path.join(folder, name), self.path)
            for folder, _, names in os.walk(self.path)
            for name in names
        )

    @property
    def needed(self) -> list[str]:
        """The files without which it is not complete."""
        return [name for name in self.files if name not in self.spare]


def weights(step: int = 0, dtype: torch.dtype = torch.float32, prefix: str = "transformer.") -> Tensors:
    """The five weights of a language model of 1 layer; other values at each step."""
    shapes = {
        f"{prefix}wte.weight": (8, 4),
        f"{prefix}h.0.attn.c_attn.bias": (12,),
        f"{prefix}h.0.attn.c_attn.weight": (4, 12),
        f"{prefix}ln_f.weight": (4,),
        "lm_head.weight": (8, 4),
    }
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def prefixed(of: Tensors, prefix: str) -> Tensors:
    """The weights under the names that they have in the whole state."""
    return {prefix + name: one for name, one in of.items()}


def optimizer_state(of: Tensors, step: int = 0) -> dict[str, Any]:
    """What `torch.optim.AdamW(...).state_dict()` gives after some steps (torch 2.13, optim/adamw.py)."""
    group = {
        "lr": 5e-05, "betas": (0.9, 0.999), "eps": 1e-08, "weight_decay": 0.0, "amsgrad": False,
        "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": True,
        "decoupled_weight_decay": True, "initial_lr": 5e-05, "params": list(range(len(of))),
    }  # fmt: skip
    state = {number: moments(one, step) for number, one in enumerate(of.values())}
    return {"state": state, "param_groups": [group]}


def moments(of: torch.Tensor, step: int = 0) -> Tensors:
    """The state that AdamW keeps for one weight."""
    return {"step": torch.tensor(float(step)), "exp_avg": of * 0.5, "exp_avg_sq": of * of}


def scheduler_state(step: int = 0) -> dict[str, Any]:
    """What `LambdaLR(...).state_dict()` gives (torch 2.13, torch/optim/lr_scheduler.py)."""
    return {
        "base_lrs": [5e-05], "last_epoch": step, "_step_count": step + 1, "_is_initial": False,
        "_get_lr_called_within_step": False, "_last_lr": [2.5e-05], "lr_lambdas": [{}],
    }  # fmt: skip


def random_state() -> tuple[Any, Any, torch.Tensor]:
    """The state of the generators of Python, of NumPy and of torch."""
    python, numpy = random.Random(0), np.random.RandomState(0)
    return python.getstate(), numpy.get_state(), torch.Generator().manual_seed(0).get_state()


def write_json(path: Path, value: Any, *, end: str = "\n", sort_keys: bool = True) -> None:
    """Writes JSON as Transformers does: indented by two, its keys sorted, with a final newline."""
    path.write_text(json.dumps(value, indent=2, sort_keys=sort_keys) + end, encoding="utf-8")


def folder(path: Path) -> Path:
    """Makes a folder, and those above it, and gives it."""
    path.mkdir(parents=True, exist_ok=True)
    return path


def split(names: list[str], count: int) -> list[list[str]]:
    """Cuts a list into so many parts of about the same length."""
    ends = [len(names) * number // count for number in range(count + 1)]
    return [names[begin:end] for begin, end in itertools.pairwise(ends)]


@contextlib.contextmanager
def foreign_class(module: str, name: str) -> Iterator[type]:
    """A class that pickles as one of a package that need not be there.

    Args:
        module: Where the real one is defined.
        name: What the real one is called.

    Yields:
        It, for as long as the block runs; pickle finds it by its name.
    """
    one = type(name, (), {"__module__": module})
    parts = module.split(".")
    packages = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]  # pickle imports the outermost
    before = {package: sys.modules.get(package) for package in packages}
    for package in packages:
        if before[package] is None or package == module:
            sys.modules[package] = types.ModuleType(package)
    setattr(sys.modules[module], name, one)
    try:
        yield one
    finally:
        for package, was in before.items():
            if was is None:
                del sys.modules[package]
            else:
                sys.modules[package] = was
