"""A sequence of saves of every kind, and the record of the system calls that it makes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.storage.local import direct, system_calls, writer
from tests.support.recorded_calls import Recorder

CHECKPOINTS = "runs/first/checkpoints"  # none of the three is there before the first save
MODELS = "models"
SMALL, LARGE = 200, 6_000  # elements of 4 bytes each


class Save(NamedTuple):
    directory: str
    index: int
    elements: int


# Onto new names and over old ones, through the page cache and past it, each next to each.
SAVES = [
    Save(CHECKPOINTS, 1, SMALL),
    Save(CHECKPOINTS, 2, SMALL),
    Save(CHECKPOINTS, 2, SMALL),
    Save(MODELS, 2, SMALL),
    Save(CHECKPOINTS, 3, LARGE),
    Save(CHECKPOINTS, 3, LARGE),
    Save(CHECKPOINTS, 1, LARGE),
    Save(MODELS, 2, LARGE),
    Save(CHECKPOINTS, 4, SMALL),
    Save(CHECKPOINTS, 4, LARGE),
    Save(MODELS, 4, LARGE),
    Save(CHECKPOINTS, 5, SMALL),
]


FROZEN = torch.arange(6_000.0)  # five blocks and a part of one: shared where that is asked for


def state_of(save: int) -> dict:
    return {"weight": torch.arange(SAVES[save].elements) + 10_000.0 * save, "save": save}


def path_of(root: str, save: int) -> str:
    mark = "_model" if SAVES[save].directory == MODELS else ""
    return os.path.join(root, SAVES[save].directory, f"model{mark}_{SAVES[save].index}.pt")


def checkpointer_for(root: str, **fields) -> DefaultCheckpointer:
    directory = os.path.join(root, CHECKPOINTS)
    defaults = {"save_dir": directory, "load_dir": directory, "log_level": "CRITICAL"}
    models = os.path.join(root, MODELS)
    return DefaultCheckpointer(
        DefaultCheckpointerArguments(**{**defaults, "model_state_save_dir": models, **fields})
    )


def save_sharing(root: str) -> Callable[[int], None]:
    """Saves checkpoints, which share what stays the same."""
    checkpointer = checkpointer_for(root, share_unchanged=True)

    def save(number: int) -> None:
        checkpointer.save(Checkpoint({"frozen": FROZEN, **state_of(number)}, {}, {}), SAVES[number].index)

    return save


def save_with_marlin(root: str) -> Callable[[int], None]:
    checkpointer = checkpointer_for(root)

    def save(number: int) -> None:
        if SAVES[number].directory == MODELS:
            checkpointer.save_model(state_of(number), SAVES[number].index)
        else:
            checkpointer.save(Checkpoint(state_of(number), {}, {}), SAVES[number].index)

    return save


@dataclass
class ThroughOs:
    """A file for torch.save whose calls can be recorded; those that it makes itself cannot."""

    fd: int

    def write(self, data: bytes) -> int:
        return os.write(self.fd, data)

    def flush(self) -> None:
        """Nothing is held back."""


def save_plainly(*, sync: bool) -> Callable[[str], Callable[[int], None]]:
    def make_save(root: str) -> Callable[[int], None]:
        def save(number: int) -> None:
            path = path_of(root, number)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            is_model = SAVES[number].directory == MODELS
            state = state_of(number) if is_model else Checkpoint(state_of(number), {}, {}).payload()
            torch.save(state, ThroughOs(fd))
            if sync:
                os.fsync(fd)
            os.close(fd)

        return save

    return make_save


def record(
    root: Path, make_save: Callable[[str], Callable[[int], None]], numbers: Iterable[int] = range(len(SAVES))
) -> Recorder:
    """Records saves, the thresholds lowered so that small files take every way that large ones take."""
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_LARGE_BYTES", 4 * LARGE)
        patch.setattr(writer, "_CACHED_PIECE_BYTES", 512)
        patch.setattr(direct, "_PIECE_BYTES", 4096)
        # The same calls on every file system, whether it has O_DIRECT or not.
        patch.setattr(writer, "_is_in_memory", lambda _: False)
        patch.setattr(system_calls, "set_direct", lambda _, *, on: on)
        recorder = Recorder(str(root), patch)
        save = make_save(str(root))
        for number in numbers:
            path = path_of(str(root), number)
            recorder.mark(path, number, is_reported=False)
            save(number)
            recorder.mark(path, number, is_reported=True)
    return recorder
