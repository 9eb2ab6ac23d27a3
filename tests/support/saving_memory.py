"""Saves a large state, prints as JSON how much memory that took beyond it and whether it came back.

A process of its own, since the peak is the process's: `python saving_memory.py PATH MEBIBYTES`. One tensor is
seven eighths of the state, so that at 6 GB its record, and the places of those after it, need zip64.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch import reader, writer
from marlin_ckpt.naming import Kind

MANIFEST = Manifest(kind=Kind.CHECKPOINT, index=1, created="2026-11-24T00:00:00Z", run_id="0", save_number=1)
PIECES = 8


def status_kib(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def peak_beyond_kib(work: Callable[[], Any]) -> int:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as references:
        references.write("5")  # the peak is what is there now; proc_pid_clear_refs(5)
    before = status_kib("VmRSS")
    work()
    return status_kib("VmHWM") - before


def make_state(size: int) -> dict[str, Any]:
    piece = size // PIECES // 4
    large = torch.arange((PIECES - 1) * piece, dtype=torch.int32).view(PIECES - 1, piece)
    small = [torch.arange(number, number + piece // PIECES, dtype=torch.int32) for number in range(PIECES)]
    return {"large": large, "row": large[PIECES - 2], "small": small}


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    parts = zip(
        [one["row"], *one["large"], *one["small"]],
        [other["row"], *other["large"], *other["small"]],
        strict=True,
    )
    shared = other["row"].data_ptr() == other["large"][PIECES - 2].data_ptr()
    return shared and all(torch.equal(part, again) for part, again in parts)


def main(path: str, size: int) -> dict[str, Any]:
    state = make_state(size)
    found: dict[str, Any] = {"state_kib": size >> 10}
    found["ours_kib"] = peak_beyond_kib(lambda: writer.write_file(path, state, MANIFEST))
    mapped = torch.load(path, mmap=True, weights_only=True)
    found["mapped"] = is_same(state, mapped)
    del mapped
    if size <= 1 << 30:
        found["copying_kib"] = peak_beyond_kib(lambda: torch.save(state, io.BytesIO()))
    state.clear()
    mapped = torch.load(path, mmap=True, weights_only=True)
    found["loaded"] = is_same(mapped, reader.read_file(path, weights_only=True, log=lambda _: None)[0])
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]) << 20)))
