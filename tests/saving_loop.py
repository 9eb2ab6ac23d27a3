"""Kills a saving loop again and again and prints, as JSON, what each kill left behind.

A process of its own, so that torch is imported once and no test has started its threads before the forks:
`python saving_loop.py DIRECTORY KILLS {marlin,plain}`.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import select
import signal
import statistics
import struct
import sys
import time
from collections.abc import Callable

import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, MarlinError
from marlin_ckpt.storage.local import publish, write_all
from marlin_ckpt.storage.temporary import is_temporary

ELEMENTS = 5_000_000  # of 4 bytes each
PATIENCE_S = 120
HELD = "held_0.pt"
HELD_HALF = b"half of it. "
REPORT = struct.Struct("<q")


def state_of(index: int) -> Checkpoint:
    return Checkpoint({"weight": torch.full((ELEMENTS,), float(index))}, {"index": index}, {})


def checkpointer_for(directory: str, index: int = 0) -> DefaultCheckpointer:
    return DefaultCheckpointer(
        DefaultCheckpointerArguments(
            save_dir=directory, load_dir=directory, load_filename=f"model_{index}.pt", log_level="CRITICAL"
        )
    )


def save_with_marlin(directory: str) -> Callable[[int], None]:
    checkpointer = checkpointer_for(directory)
    return lambda index: checkpointer.save(state_of(index), index)


def save_plainly(directory: str) -> Callable[[int], None]:
    return lambda index: torch.save(state_of(index).payload(), os.path.join(directory, f"model_{index}.pt"))


def start_loop(make_save: Callable[[str], Callable[[int], None]], directory: str, first: int):
    """Forks a child that saves under first, first + 1, ... and reports each index once `save` returned."""
    reports, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            save = make_save(directory)
            index = first
            while True:
                save(index)
                os.write(report, REPORT.pack(index))
                index += 1
        finally:
            os._exit(70)
    os.close(report)
    return pid, reports


def next_report(reports: int, timeout_s: float) -> int | None:
    if not select.select([reports], [], [], max(0.0, timeout_s))[0]:
        return None
    data = os.read(reports, REPORT.size)
    if len(data) != REPORT.size:
        raise SystemExit("the saving loop ended by itself")
    return REPORT.unpack(data)[0]


def start_holder(directory: str):
    """Forks a child that stays in the middle of a save until it is let go."""
    ready, say_ready = os.pipe()
    let_go, say_let_go = os.pipe()
    pid = os.fork()
    if pid == 0:

        def write(fd: int) -> None:
            write_all(fd, HELD_HALF)
            os.write(say_ready, b".")
            os.read(let_go, 1)
            write_all(fd, HELD_HALF)

        try:
            publish(os.path.join(directory, HELD), write)
        finally:
            os._exit(0)
    if not select.select([ready], [], [], PATIENCE_S)[0]:
        raise SystemExit("the holder did not start")
    return pid, say_let_go


def temporaries(directory: str) -> set[str]:
    return {name for name in os.listdir(directory) if is_temporary(name)}


def indices(directory: str) -> list[int]:
    names = (name for name in os.listdir(directory) if name.startswith("model_"))
    return sorted(int(name.removeprefix("model_").removesuffix(".pt")) for name in names)


def fault_of(directory: str, index: int) -> str:
    """What is wrong with the checkpoint of one index; "" when it is the one that was saved."""
    try:
        loaded = checkpointer_for(directory, index).load()
    except MarlinError as error:
        return str(error)
    low, high = torch.aminmax(loaded.module_interface_state["weight"])
    numel = loaded.module_interface_state["weight"].numel()
    found = (low.item(), high.item(), numel, loaded.trainer_state)
    return "" if found == (index, index, ELEMENTS, {"index": index}) else f"holds {found}"


def measure_period(make_save: Callable[[str], Callable[[int], None]], directory: str) -> float:
    pid, reports = start_loop(make_save, directory, 0)
    times = []
    while len(times) < 8:
        next_report(reports, PATIENCE_S)
        times.append(time.monotonic())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reports)
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(times))


def main(directory: str, kills: int, kind: str) -> dict:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    make_save = {"marlin": save_with_marlin, "plain": save_plainly}[kind]
    rng = random.Random(20261123)
    found = {
        "kills": 0,
        "in_mid_save": 0,
        "newest": [],
        "previous": [],
        "lost": [],
        "left": [],
        "touched": [],
    }
    period_s = measure_period(make_save, directory)
    holder, say_let_go = start_holder(directory)
    held = {name for name in temporaries(directory) if name.startswith(f".{HELD}.")}
    for kill in range(kills):
        before = indices(directory)
        leftovers = temporaries(directory) - held
        pid, reports = start_loop(make_save, directory, before[-1] + 1)
        reported = [next_report(reports, PATIENCE_S)]
        if stale := leftovers & temporaries(directory):
            found["left"].append([kill, sorted(stale)])
        until = time.monotonic() + rng.uniform(0, 1.5 * period_s)
        while (index := next_report(reports, until - time.monotonic())) is not None:
            reported.append(index)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while select.select([reports], [], [], 0)[0] and (data := os.read(reports, REPORT.size)):
            reported.append(REPORT.unpack(data)[0])
        os.close(reports)
        found["kills"] += 1
        after = indices(directory)
        found["in_mid_save"] += bool(temporaries(directory) - held) or after[-1] > reported[-1]
        if fault := fault_of(directory, after[-2]):
            found["previous"].append([kill, fault])
        if fault := fault_of(directory, after[-1]):
            found["newest"].append([kill, fault])
        if missing := {before[-1], *reported} - set(after):
            found["lost"].append([kill, sorted(missing)])
        if not held or not held <= temporaries(directory):
            found["touched"].append(kill)
        if fault:  # else the next kill would be blamed for it
            save_plainly(directory)(after[-1])
        for index in after[:-2]:
            os.unlink(os.path.join(directory, f"model_{index}.pt"))
    os.write(say_let_go, b".")
    os.waitpid(holder, 0)
    held_path = os.path.join(directory, HELD)
    found["held_save"] = ""
    if os.path.exists(held_path):
        with open(held_path, "rb") as file:
            found["held_save"] = file.read().decode()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
