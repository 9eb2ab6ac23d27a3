"""Histories of directories, as runs write them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from marlin_ckpt.directory.history.events import (
    Ended,
    Event,
    Measured,
    Removed,
    Resumed,
    Saved,
    SaveFailed,
    Signalled,
    Started,
)
from marlin_ckpt.directory.history.recorder import History

ONE, OTHER = "3fa1c29be077", "3fa2d4470bc1"
VERSIONS = {"marlin-ckpt": "0.2.0", "torch": "2.13.0"}
REMOVED = "not among the last 2"


def at(minute: int, second: int = 0) -> str:
    """A time of one hour of one day."""
    return f"2026-11-27T12:{minute:02}:{second:02}.000Z"


def save(index: int, minute: int, **facts: Any) -> Saved:
    """A save of 1.4 GB."""
    usual: dict[str, Any] = {
        "run_id": ONE, "name": f"model_{index}.pt", "index": index, "save_number": index + 1,
        "step": 300 * (index + 1), "size_bytes": 1_400_000_000, "stall_s": 0.02, "copy_s": 0.1,
        "write_s": 0.7, "sync_s": 0.2, "metrics": {"val_loss": 0.9 / (index + 1)},
    }  # fmt: skip
    return Saved(at=at(minute), **{**usual, **facts})


def killed_and_resumed() -> list[Event]:
    """A run that was killed, resumed from the checkpoint before the newest, and then stopped by a signal."""
    return [
        Started(
            by="Trainer", run_id=ONE, at=at(0), config_sha256="aa", git_commit="abc1234def", versions=VERSIONS
        ),
        Measured(run_id=ONE, at=at(1), epoch=0, step=300, metrics={"val_loss": 0.9}),
        save(0, 1),
        save(1, 2),
        save(2, 3),
        Removed(
            run_id=ONE, at=at(3, 1), name="model_0.pt", index=0, size_bytes=1_400_000_000, reason=REMOVED
        ),
        SaveFailed(run_id=ONE, at=at(4), name="model_3.pt", index=3, error="No space left on device"),
        Started(
            by="Trainer",
            run_id=ONE,
            at=at(10),
            config_sha256="aa",
            git_commit="def5678abc",
            versions={**VERSIONS, "torch": "2.13.1"},
            world_size=2,
        ),
        Resumed(
            run_id=ONE,
            at=at(10, 1),
            name="model_1.pt",
            index=1,
            parent_run_id=ONE,
            parent_save_number=2,
            passed_over={"model_2.pt": "corrupt: data/3"},
        ),
        Signalled(run_id=ONE, at=at(11), signal="SIGTERM", step=700),
        save(3, 11, metrics={"val_loss": float("nan")}),
        Ended(run_id=ONE, at=at(11, 1), how="stopped", epochs=2, step=700),
    ]


def of_another_run() -> list[Event]:
    """A run that took up a checkpoint of the first one, and failed; its checkpoints were then removed."""
    return [
        Started(by="Trainer", run_id=OTHER, at=at(20)),
        Resumed(run_id=OTHER, at=at(20, 1), name="model_3.pt", index=3, parent_run_id=ONE),
        save(4, 21, run_id=OTHER, name="model_4.pt", metrics={}),
        Ended(run_id=OTHER, at=at(22), how="failed", error="ValueError: bad\ndata", epochs=1, step=9),
        Removed(at=at(23), name="model_4.pt", index=4, reason="older than 7d", by="clean"),
    ]


def write(directory: Path, *events: Event, names: tuple[str, ...] = (), lines: bytes = b"") -> Path:
    """Makes a directory that has a history.

    Args:
        directory: where.
        events: what happened.
        names: of empty files in it.
        lines: further lines of the history.
    """
    directory.mkdir(exist_ok=True, parents=True)
    (directory / ".marlin-ckpt").mkdir(exist_ok=True)
    History(os.fspath(directory)).write(*events)
    with open(directory / ".marlin-ckpt" / "events.jsonl", "ab") as file:
        file.write(lines)
    for name in names:
        (directory / name).touch()
    return directory


def log_directory(directory: Path) -> Path:
    """Makes a directory with the history of both runs, and those checkpoints that it says are there."""
    names = ("model_1.pt", "model_2.pt", "model_3.pt")
    return write(directory, *killed_and_resumed(), *of_another_run(), names=names)
