"""Times saving and verifying against the disk's own speed and against what others do.

    python benchmarks/saving.py [--directory DIR] [--rounds 5] [--layers 12]

The state is GPT-2 small's with AdamW's moments, 1.49 GB at 12 layers; a save counts until it is durable.
Ratios of medians, interleaved in one run.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from interleaved import machine, medians, row
from torch.distributed.checkpoint.state_dict_saver import save as distributed_save

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.archive.verification import verify

_WIDTH, _VOCABULARY, _CONTEXT = 768, 50257, 1024  # GPT-2 small


def _state(layers: int) -> dict[str, torch.Tensor]:
    """The parameters of GPT-2 small and, beside each, AdamW's two moments."""
    shapes: dict[str, tuple[int, ...]] = {"wte": (_VOCABULARY, _WIDTH), "wpe": (_CONTEXT, _WIDTH)}
    for layer in range(layers):
        for name, shape in {
            "attn": (3 * _WIDTH, _WIDTH), "proj": (_WIDTH, _WIDTH), "up": (4 * _WIDTH, _WIDTH),
            "down": (_WIDTH, 4 * _WIDTH), "ln_1": (_WIDTH,), "ln_2": (_WIDTH,),
        }.items():  # fmt: skip
            shapes[f"{layer}.{name}"] = shape
    return {
        f"{kind}.{name}": torch.randn(shape) for name, shape in shapes.items() for kind in ("p", "m", "v")
    }


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _raw(path: Path, size_bytes: int) -> None:
    buffer = mmap.mmap(-1, 64 << 20)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with contextlib.suppress(OSError):
        os.posix_fallocate(fd, 0, size_bytes)
    direct = os.open(path, os.O_WRONLY | os.O_DIRECT)
    written = 0
    while written < size_bytes:
        written += os.write(direct, buffer)
    os.fsync(direct)
    os.close(direct)
    os.close(fd)


def _savers(directory: Path, state: dict[str, torch.Tensor]) -> dict[str, Callable[[], object]]:
    arguments = DefaultCheckpointerArguments(save_dir=str(directory), model_state_save_dir=None)
    checkpointer = DefaultCheckpointer(arguments)
    size_bytes = sum(tensor.nbytes for tensor in state.values())

    def torch_save() -> None:
        torch.save({"module_interface_state": state}, directory / "torch.pt")
        _sync(directory / "torch.pt")

    savers: dict[str, Callable[[], object]] = {
        "ours": lambda: checkpointer.save(Checkpoint(state, {}, {}), 0),
        "raw O_DIRECT write": lambda: _raw(directory / "raw", size_bytes),
        "torch.save + fsync": torch_save,
        "torch.distributed.checkpoint": lambda: distributed_save(state, checkpoint_id=str(directory / "dcp")),
    }
    if find_spec("safetensors"):
        save_file = import_module("safetensors.torch").save_file

        def safetensors() -> None:
            save_file(state, directory / "s.safetensors")
            _sync(directory / "s.safetensors")

        savers["safetensors + fsync"] = safetensors
    else:
        print("safetensors is not installed and left out")
    return savers


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where to save; a new temporary directory by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    args = parser.parse_args()
    bounds = {
        "raw O_DIRECT write": 1.1,
        "torch.save + fsync": 0.35,
        "safetensors + fsync": 0.75,
        "torch.distributed.checkpoint": 0.3,
    }
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
    state = _state(args.layers)
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        directory = Path(folder)
        savers = _savers(directory, state)
        saving = medians(savers, args.rounds, lambda: _empty(directory))
        savers["ours"]()
        path = str(directory / "model_0.pt")
        verifying = medians(
            {"ours": lambda: verify(path), "zipfile.testzip": lambda: zipfile.ZipFile(path).testzip()},
            args.rounds,
        )
    size_gb = sum(tensor.nbytes for tensor in state.values()) / 1e9
    print(f"{machine()}, torch {torch.__version__}; {size_gb:.2f} GB, medians of {args.rounds}")
    ours = saving.pop("ours")
    for name, timing in saving.items():
        print(row(f"save / {name}", ours.wall_s, timing.wall_s, bounds[name]))
    print(row("save / torch.save, processor time", ours.cpu_s, saving["torch.save + fsync"].cpu_s, 0.35))
    print(row("verify / testzip", verifying["ours"].wall_s, verifying["zipfile.testzip"].wall_s, 0.35))


if __name__ == "__main__":
    main()
