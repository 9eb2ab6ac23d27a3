"""Directories of runs, with real checkpoints and a history, and with what goes wrong in runs."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import torch

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
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.writer import write_file
from marlin_ckpt.naming import Kind

ONE, OTHER = "3fa1c29be077", "3fa2d4470bc1"
KEEP = {"last": 1, "best": {"metric": "val_loss", "mode": "min", "count": 1}}
VERSIONS = {"torch": "2.13.0"}
NAMES = ("layers.0.weight", "layers.0.bias")


def at(minute: float) -> str:
    """A time of one day."""
    hour, minute = divmod(minute, 60)
    return f"2026-11-27T{12 + int(hour):02}:{int(minute):02}:00.000Z"


def state(scale: float = 1.0, **changes: torch.Tensor) -> dict[str, Any]:
    """What a trainer saves, with the state of Adam."""
    module = {NAMES[0]: torch.arange(1.0, 13).reshape(3, 4) * scale, NAMES[1]: torch.zeros(3), **changes}
    kept = {number: {"exp_avg": torch.ones(3)} for number in range(len(NAMES))}
    optimizer = {"state": kept, "param_groups": [{"lr": 0.1, "params": [*kept]}]}
    trainer = {"optimizers": [optimizer], "seed": torch.ones(2)}
    return {"module_interface_state": module, "trainer_state": trainer}


def manifest(index: int, minute: float, run_id: str = ONE, **facts: Any) -> Manifest:
    """That of a checkpoint; of run `ONE` each save has the number after its index, unless told otherwise."""
    usual: dict[str, Any] = {
        "kind": Kind.CHECKPOINT, "index": index, "created": at(minute), "run_id": run_id,
        "save_number": index + 1, "metrics": {"val_loss": 1 / (index + 1), "accuracy": index / 9},
        "versions": VERSIONS,
        "optimizers": {"trainer_state.optimizers[0]": [[*NAMES]]},
    }  # fmt: skip
    return Manifest(**{**usual, **facts})


def save(
    directory: Path, index: int, minute: float, *, scale: float = 1.0, name: str = "",
    has_statistics: bool = False, **facts: Any,
) -> Saved:  # fmt: skip
    """Writes a checkpoint; returns the event of its save."""
    about = manifest(index, minute, **facts)
    name = name or f"model_{index}.pt"
    directory.mkdir(exist_ok=True)
    write_file(os.fspath(directory / name), state(scale), about, has_statistics=has_statistics)
    return event(about, name, size_bytes=(directory / name).stat().st_size)


def event(about: Manifest, name: str, **facts: Any) -> Saved:
    """The event of the save of a checkpoint."""
    usual: dict[str, Any] = {
        "run_id": about.run_id, "at": about.created, "name": name, "is_model": about.kind is Kind.MODEL,
        "index": about.index, "save_number": about.save_number, "step": 100 * (about.index + 1),
        "size_bytes": 2000, "stall_s": 0.01, "copy_s": 0.1, "write_s": 0.4, "sync_s": 0.2,
        "metrics": about.metrics,
    }  # fmt: skip
    return Saved(**{**usual, **facts})


def write(directory: Path, *events: Event) -> Path:
    """Writes a history."""
    directory.mkdir(exist_ok=True)
    History(os.fspath(directory)).write(*events)
    return directory


def troubled(directory: Path) -> Path:
    """Two runs: one that removed, failed, was killed and resumed; one whose process is this one."""
    first = save(directory, 0, 1)
    second = save(directory, 1, 2)
    (directory / "model_0.pt").unlink()
    third = save(directory, 2, 3, scale=float("nan"))
    write(
        directory,
        Started(
            run_id=ONE, by="Trainer", at=at(0), config_sha256="aa", git_commit="abc1234", versions=VERSIONS,
            keep=KEEP,
        ),
        Measured(run_id=ONE, at=at(1), epoch=0, step=100, metrics={"val_loss": 1.0}),
        first,
        second,
        Removed(run_id=ONE, at=at(2), name="model_0.pt", index=0, size_bytes=2000, reason="no rule keeps it"),
        third,
        SaveFailed(run_id=ONE, at=at(4), name="model_3.pt", index=3, error="No space left on device"),
        Started(run_id=ONE, by="Trainer", at=at(10), versions=VERSIONS, world_size=2, keep=KEEP),
        Resumed(
            run_id=ONE, at=at(10), name="model_1.pt", index=1, parent_run_id=ONE, parent_save_number=2,
            passed_over={"model_2.pt": "corrupt: record data/0"},
        ),
        save(directory, 2, 11, scale=2.0),
        event(manifest(9, 12, metrics={"val_loss": 0.01}), "lost.pt", index=-1),
        Signalled(run_id=ONE, at=at(13), signal="SIGTERM", step=400),
        Ended(run_id=ONE, at=at(13), how="stopped", epochs=3, step=400),
        Started(run_id=OTHER, by="Trainer", at=at(20)),
        save(directory, 0, 21, run_id=OTHER, name="other_0.pt", scale=3.0),
    )  # fmt: skip
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "run_id": OTHER}
    (directory / ".marlin-ckpt" / "lease.json").write_text(json.dumps(holder))
    whole = (directory / "other_0.pt").read_bytes()
    (directory / "other_1.pt").write_bytes(whole[:-300])
    torch.save({"w": torch.ones(2)}, directory / "legacy_3.pt", _use_new_zipfile_serialization=False)
    torch.save({"w": torch.ones(2)}, directory / "weights.pt")
    for name in ("legacy_3.pt", "other_1.pt", "weights.pt"):
        os.utime(directory / name, (0, 0))
    return directory
