"""How other packages save: a function for each; those that are not installed are left out and reported."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.files import durable
from benchmarks.states import flat
from marlin_ckpt import Checkpoint

Save = Callable[[Checkpoint, Path], None]


def torch_save(checkpoint: Checkpoint, path: Path) -> None:
    torch.save(checkpoint.payload(), path)
    durable(path)


def _safetensors() -> Save:
    save_file = import_module("safetensors.torch").save_file

    def save(checkpoint: Checkpoint, path: Path) -> None:
        save_file(dict(flat(checkpoint.payload())), path)
        durable(path)

    return save


def _distributed() -> Save:
    # It warns at each save that it saves for a single process, as it is asked to.
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
    distributed_save = import_module("torch.distributed.checkpoint").save

    def save(checkpoint: Checkpoint, path: Path) -> None:
        distributed_save(dict(flat(checkpoint.payload())), checkpoint_id=str(path))
        durable(path, files=False)  # it syncs the files, but not the directory

    return save


def _torch_checkpointing() -> Save:
    package = import_module("torch_checkpointing")
    storage = import_module("torch_checkpointing.storage.filesystem")
    config = package.CheckpointManager.Config.with_sync_save()
    # Its O_DIRECT, on by default, fails with EINVAL on ext4.
    config.storage_config = storage.LocalFileSystemStorageConfig(use_direct_io=False)
    manager = config.build()

    def save(checkpoint: Checkpoint, path: Path) -> None:
        manager.save(str(path), {"state": dict(flat(checkpoint.payload()))})
        durable(path)

    return save


def _lightning() -> Save:
    checkpoint_io = import_module("lightning_fabric.plugins.io.torch_io").TorchCheckpointIO()

    def save(checkpoint: Checkpoint, path: Path) -> None:
        checkpoint_io.save_checkpoint(checkpoint.payload(), path)
        durable(path)

    return save


def _orbax() -> Save:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    checkpointer = import_module("orbax.checkpoint").PyTreeCheckpointer()
    logging.getLogger("absl").setLevel(logging.ERROR)

    def save(checkpoint: Checkpoint, path: Path) -> None:
        arrays = {name: tensor.numpy() for name, tensor in flat(checkpoint.payload())}
        checkpointer.save(path, arrays)
        durable(path)

    return save


class _Peer(NamedTuple):
    module: str
    make: Callable[[], Save]
    bound: float | None


_PEERS = {
    "safetensors + fsync": _Peer("safetensors", _safetensors, 0.75),
    "torch.distributed.checkpoint": _Peer("torch", _distributed, 0.3),
    "torch_checkpointing + fsync": _Peer("torch_checkpointing", _torch_checkpointing, None),
    "Lightning + fsync": _Peer("lightning_fabric", _lightning, None),
    "Orbax + fsync": _Peer("orbax", _orbax, None),
}
BOUNDS: dict[str, float | None] = {name: peer.bound for name, peer in _PEERS.items()}


def found(directory: Path, leave_out: Callable[[str], None], *, with_bound: bool) -> dict[str, Save]:
    """The peers that are installed and can save at all, by name.

    Args:
        directory: an empty one to try them in.
        leave_out: called with a sentence for each package that is left out.
        with_bound: those that we are held against, or the rest.
    """
    savers: dict[str, Save] = {}
    trial = Checkpoint({"weight": torch.zeros(64, 64)}, {"optimizer": {"step": torch.zeros(())}}, {})
    for number, (name, peer) in enumerate(_PEERS.items()):
        if (peer.bound is not None) != with_bound:
            continue
        if find_spec(peer.module) is None:
            leave_out(f"{peer.module} is not installed and left out")
            continue
        try:
            save = peer.make()
            save(trial, directory / f"trial-{number}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are still worth timing
            leave_out(f"{name} is left out, since its save ends in {type(error).__name__}")
        else:
            savers[name] = save
    return savers
