"""How other packages save while training goes on; those that are not installed are left out and reported."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.loops import Loop
from benchmarks.states import flat
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments

ASYNC_CHECKPOINT_IO = "Lightning's AsyncCheckpointIO"
TORCH_CHECKPOINTING = "torch_checkpointing, asynchronous"
DISTRIBUTED = "torch.distributed.checkpoint.async_save"
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Saver:
    """Somebody's asynchronous save.

    Attributes:
        save: begins one, and returns when the loop may go on.
        finish: returns when it is done.
        around_step: what the optimizer's step has to be done in.
        close: ends what it keeps running.
    """

    save: Callable[[Checkpoint], object]
    finish: Callable[[], object]
    around_step: Callable[[], AbstractContextManager[object]] = nullcontext
    close: Callable[[], object] = lambda: None


def ours(loop: Loop, directory: Path, *, overlap: bool = True) -> Saver:
    """Ours, with the loop's optimizer registered."""
    arguments = DefaultCheckpointerArguments(save_dir=str(directory), async_save=True, overlap=overlap)
    checkpointer = DefaultCheckpointer(arguments)
    checkpointer.register(loop.optimizer)
    return Saver(lambda one: checkpointer.save(one, 0), checkpointer.wait, close=checkpointer.close)


def ours_in_lightning(directory: Path) -> Saver:
    """Our plugin for Lightning, which finds the loop's optimizer itself."""
    # Not at the top: Lightning takes seconds, and is not installed everywhere.
    plugin = import_module("marlin_ckpt.integrations.lightning").MarlinCheckpointIO(async_save=True)

    def save(checkpoint: Checkpoint) -> None:
        plugin.save_checkpoint(checkpoint.payload(), directory / "ours.ckpt")

    wait = plugin._saver.wait  # noqa: SLF001 - `teardown` would give the memory back, too
    return Saver(save, wait, close=plugin.teardown)


def _distributed(directory: Path) -> Saver:
    """With the stager that `async_save` makes by default; all that this can do better needs a GPU."""
    off = ("use_pinned_memory", "use_shared_memory", "use_async_staging", "use_non_blocking_copy")
    options = _staging().StagingOptions(**dict.fromkeys(off, False))
    return _with_stager(directory, lambda: _staging().DefaultStager(options))


def _distributed_staged(directory: Path) -> Saver:
    """With all that its stager can do on a GPU; memory shared with a process is of no use to a thread."""
    options = _staging().StagingOptions(use_shared_memory=False)
    return _with_stager(directory, lambda: _staging().DefaultStager(options))


def _distributed_pinned(directory: Path) -> Saver:
    """With a copy in pinned memory that is kept from save to save, for which the call waits."""
    return _with_stager(directory, lambda: _staging().BlockingAsyncStager(cache_staged_state_dict=True))


def _staging() -> Any:
    return import_module("torch.distributed.checkpoint.staging")


def _with_stager(directory: Path, make: Callable[[], Any]) -> Saver:
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
    package = import_module("torch.distributed.checkpoint")
    stagers, under_way = [make()], []

    def save(checkpoint: Checkpoint) -> None:
        state = dict(flat(checkpoint.payload()))
        kept = getattr(stagers[0], "state_dict_cache", None)
        if kept is not None and len(kept) != len(state):  # it takes no other state than its first, the trial
            stagers[0] = make()
        path = str(directory / f"dcp-{time.monotonic_ns()}")
        under_way.append(package.async_save(state, checkpoint_id=path, async_stager=stagers[0]))

    def finish() -> None:
        response = under_way.pop()
        getattr(response, "upload_completion", response).result()
        copies = getattr(stagers[0], "_state_dict_stager", None)
        if copies is not None and not copies._deepcopy_dispatch:  # noqa: SLF001 - torch 2.11 uses each up
            stagers[0].close()
            stagers[0] = make()

    @contextlib.contextmanager
    def around_step() -> Iterator[None]:
        for response in under_way:
            if hasattr(response, "staging_completion"):
                response.staging_completion.result()
        yield

    def close() -> None:
        stagers[0].close()

    return Saver(save, finish, around_step, close=close)


def _torch_checkpointing(directory: Path) -> Saver:
    package = import_module("torch_checkpointing")
    storage = import_module("torch_checkpointing.storage.filesystem")
    config = package.CheckpointManager.Config.with_async_save()
    # Its O_DIRECT, on by default, fails with EINVAL on ext4.
    config.storage_config = storage.LocalFileSystemStorageConfig(use_direct_io=False)
    manager = config.build()
    under_way: list[Any] = []

    def save(checkpoint: Checkpoint) -> None:
        path = str(directory / f"tc-{time.monotonic_ns()}")
        under_way.append(manager.save(path, {"state": dict(flat(checkpoint.payload()))}))

    return Saver(save, lambda: under_way.pop().result(), around_step=manager.lock, close=manager.close)


def _lightning(directory: Path) -> Saver:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plugins = import_module("pytorch_lightning.plugins.io.async_plugin")
        torch_io = import_module("lightning_fabric.plugins.io.torch_io")
    plugin = plugins.AsyncCheckpointIO(torch_io.TorchCheckpointIO())

    def save(checkpoint: Checkpoint) -> None:
        plugin.save_checkpoint(checkpoint.payload(), directory / f"lightning-{time.monotonic_ns()}.ckpt")

    return Saver(save, plugin.teardown, close=plugin.teardown)


_PEERS: dict[str, tuple[str, Callable[[Path], Saver]]] = {
    DISTRIBUTED: ("torch", _distributed),
    TORCH_CHECKPOINTING: ("torch_checkpointing", _torch_checkpointing),
    ASYNC_CHECKPOINT_IO: ("pytorch_lightning", _lightning),
}
_PEERS_ON_CUDA: dict[str, tuple[str, Callable[[Path], Saver]]] = {
    f"{DISTRIBUTED}, staged behind": ("torch", _distributed_staged),
    f"{DISTRIBUTED}, kept pinned": ("torch", _distributed_pinned),
}


@contextlib.contextmanager
def others(
    directory: Path, leave_out: Callable[[str], None], device: torch.device = _CPU
) -> Iterator[dict[str, Saver]]:
    """Those that are installed and can save at all, by name; closed in the end.

    Args:
        directory: where they save.
        leave_out: called with a sentence for each package that is left out.
        device: where the states are.
    """
    peers = _PEERS | (_PEERS_ON_CUDA if device.type == "cuda" else {})
    savers: dict[str, Saver] = {}
    trial = Checkpoint({"weight": torch.zeros(64, 64, device=device)}, {}, {})
    try:
        for name, (module, make) in peers.items():
            if find_spec(module) is None:
                leave_out(f"{module} is not installed and left out")
                continue
            try:
                saver = make(directory)
                saver.save(trial)
                saver.finish()
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are still worth timing
                leave_out(f"{name} is left out, since its save ends in {type(error).__name__}")
            else:
                savers[name] = saver
        yield savers
    finally:
        for saver in savers.values():
            saver.close()
