"""Compares what `show` says of a file, in a process without torch, with what torch loads from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from marlin_ckpt.cli.main import main
sys.exit(main())
"""
_ROOT = Path(__file__).parents[2]


def show(path: Path, *options: str) -> str:
    """What `show` prints."""
    ended = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, "show", str(path), *options],
        env={**os.environ, "PYTHONPATH": str(_ROOT)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a loaded state, by the names that `show` gives them."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, np.ndarray):  # such as the state of NumPy's random numbers
        yield name, torch.from_numpy(value)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors_in(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from tensors_in(part, f"{name}[{number}]")


def looked_into(path: Path) -> dict[str, Any]:
    """Shows a file in every way, compares it with what torch loads, and gives the document."""
    told = json.loads(show(path, "--json", "--stats", "*"))
    if path.suffix == ".safetensors":
        live = load_file(path)
    else:
        live = dict(tensors_in(torch.load(path, weights_only=False)))
        refused = {one["name"] for one in told["imports"] if one["permission"] != "allowed"}
        assert refused == set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    shown = {one["name"]: (one["shape"], one["dtype"]) for one in told["tensors"]}
    expected = {name: (list(one.shape), str(one.dtype).removeprefix("torch.")) for name, one in live.items()}
    assert shown == expected
    figures = {one["name"]: one for one in told["stats"]}
    for name, one in live.items():
        if one.isfinite().all() and one.numel():
            assert float(figures[name]["min"]) == one.double().min()
            assert float(figures[name]["max"]) == one.double().max()
    for options in ([], ["--depth", "99"], ["--tensors", "*", "--sort", "size"]):
        assert "\x1b" not in show(path, *options)
    return told
