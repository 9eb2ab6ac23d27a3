"""Measures flips and kills, and writes them down."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.faults.flips import Flips, flip_each
from benchmarks.faults.formats import pairs, small_state
from benchmarks.faults.kills import kill_each

_DISTRIBUTIONS = ("torch", "safetensors", "lightning", "transformers", "accelerate", "pytorch-ignite")
_WIDTH, _QUICK_WIDTH, _QUICK_EVERY = 24, 8, 997


def measure(
    directory: Path | None,
    kills: int,
    leave_out: Callable[[str], None],
    tell: Callable[[str], None],
    *,
    quick: bool,
) -> dict[str, Any]:
    """Flips the bits of a file of each format, kills trainings, and returns the document about it.

    Args:
        directory: where the files are written; the temporary one by default.
        kills: how many trainings of each kind are killed; 0 leaves them out.
        leave_out: called with a sentence about each measurement that is left out.
        tell: called with what has been measured so far.
        quick: a few bits alone, to show that it runs.
    """
    left_out: list[str] = []

    def note(sentence: str) -> None:
        left_out.append(sentence)
        leave_out(sentence)

    torch.set_num_threads(1)  # a forked process has no threads of its parent's
    flips: list[Flips] = []
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        machine = report.machine(Path(folder), _DISTRIBUTIONS)
        for number, pair in enumerate(pairs()):
            own = Path(folder, str(number))
            own.mkdir()
            state = small_state(_QUICK_WIDTH if quick else _WIDTH)
            flips.append(flip_each(pair, state, own, _QUICK_EVERY if quick else None))
            tell(flips[-1].line())
    if kills == 0:
        note("kills are left out, as asked for")
    killed = kill_each(kills, note, tell) if kills else []
    return {
        "machine": machine,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "quick": quick,
        "left_out": left_out,
        "flips": [{**asdict(one), "flipped": one.flipped} for one in flips],
        "kills": [asdict(one) for one in killed],
    }
