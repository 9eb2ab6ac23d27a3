"""What the processes share that train, save asynchronously and are ended in the middle.

Each is a process of its own, so that torch is imported once and no test has started its threads before the
forks: `python async_kills.py DIRECTORY KIND=TIMES ...` prints, as JSON, what was left behind.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from isal import isal_zlib

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, MarlinError
from marlin_ckpt.storage.local.temporary import is_temporary

PATIENCE_S = 120
NEW_NAMES = "model"  # each save under its own index
WIDTH = 900  # of a module whose state, with the optimizer's, has 10 MB
MESSAGE = struct.Struct("<?qI")  # whether it is durable, else asked for; its number; its checksum


class Training:
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.module = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.BatchNorm1d(WIDTH))
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.01)

    def step(self) -> None:
        self.module(torch.randn(4, WIDTH)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def checkpoint(self, number: int) -> Checkpoint:
        trainer_state = {"optimizer": self.optimizer.state_dict(), "number": number}
        return Checkpoint(self.module.state_dict(), trainer_state, {})


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)


def checksum(checkpoint: Checkpoint) -> int:
    found = 0
    for one in _tensors({"module": checkpoint.module_interface_state, "trainer": checkpoint.trainer_state}):
        found = isal_zlib.crc32(one.detach().reshape(-1).numpy(), found)
    return found


def name_of(prefix: str, number: int) -> str:
    return f"{prefix}_{number if prefix == NEW_NAMES else 0}.pt"


def checkpointer_for(directory: str, prefix: str = NEW_NAMES, **options: Any) -> DefaultCheckpointer:
    where = {"save_dir": directory, "load_dir": directory, "file_prefix": prefix}
    return DefaultCheckpointer(
        DefaultCheckpointerArguments(**{**where, "async_save": True, "log_level": "CRITICAL", **options})
    )


def held_by(directory: str, name: str, asked: dict[int, int]) -> tuple[int, str]:
    """The number that a file holds, and what is wrong with the file; "" when it is as it was saved."""
    try:
        loaded = checkpointer_for(directory, load_filename=name, async_save=False).load()
    except MarlinError as error:
        return -1, str(error)
    number = loaded.trainer_state["number"]
    return number, "" if checksum(loaded) == asked.get(number) else f"{name} is not {number} as it was saved"


def stop_in_the_next_save() -> None:
    """Has this process stop once it has written a file and not yet renamed it, to be killed there.

    The save before may be about to sync its directory, where it leaves no temporary file behind.
    """
    fsync = os.fsync

    def stop_or_sync(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # else this thread may go on a little
        fsync(fd)

    os.fsync = stop_or_sync


def temporaries(directory: str) -> set[str]:
    return {name for name in os.listdir(directory) if is_temporary(name)}


def run(kinds: dict[str, Callable[[str, int], dict[str, Any]]]) -> None:
    """Does what the arguments say, and prints what came of it."""
    torch.set_num_threads(1)
    warm = Training(0)
    warm.step()  # the first one imports for a second, which each child would spend again
    found = {}
    for kind, times in (argument.split("=") for argument in sys.argv[2:]):
        directory = os.path.join(sys.argv[1], kind)
        os.mkdir(directory)
        found[kind] = kinds[kind](directory, int(times))
    sys.stdout.write(json.dumps(found))
