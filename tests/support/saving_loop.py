"""Kills a saving loop again and again and prints, as JSON, what each kill left behind.

A process of its own, so that torch is imported once and no test has started its threads before the forks:
`python saving_loop.py DIRECTORY MEGABYTES KIND=KILLS ...`, a kind being `direct`, `buffered` or `plain`.
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
import tempfile
import time
from collections.abc import Callable

import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, MarlinError
from marlin_ckpt.storage.local import direct, system_calls, writer
from marlin_ckpt.storage.local.publishing import publish
from marlin_ckpt.storage.target import Target
from tests.support.async_child import NEW_NAMES, PATIENCE_S, name_of, stop_in_the_next_save, temporaries

ONE_NAME = "last"  # each save over the one before
HELD = "held_0.pt"
HELD_HALF = b"half of it. "
REPORT = struct.Struct("<q")

Save = Callable[[int], None]


def checkpointer_for(directory: str, prefix: str = NEW_NAMES, filename: str = "") -> DefaultCheckpointer:
    return DefaultCheckpointer(
        DefaultCheckpointerArguments(
            save_dir=directory,
            load_dir=directory,
            load_filename=filename or None,
            file_prefix=prefix,
            log_level="CRITICAL",
        )
    )


class Loop:
    """The saves of one kind: how they are made, and what is to be found of them."""

    def __init__(self, directory: str, kind: str, elements: int) -> None:
        self.directory = directory
        self.elements = elements
        self._is_plain = kind == "plain"
        writer._LARGE_BYTES = 0 if kind == "direct" else sys.maxsize

    def saving(self, prefix: str) -> Save:
        """Makes a function that saves a state which holds a number."""
        weight = torch.empty(self.elements)
        checkpointer = checkpointer_for(self.directory, prefix)

        def save(number: int) -> None:
            state = Checkpoint({"weight": weight.fill_(number)}, {"number": number}, {})
            if self._is_plain:
                torch.save(state.payload(), os.path.join(self.directory, name_of(prefix, number)))
            else:
                checkpointer.save(state, number if prefix == NEW_NAMES else 0)

        return save

    def held_by(self, name: str) -> tuple[int, str]:
        """The number that a file holds, and what is wrong with the file; "" when it is as it was saved."""
        try:
            loaded = checkpointer_for(self.directory, NEW_NAMES, name).load()
        except MarlinError as error:
            return -1, str(error)
        low, high = torch.aminmax(loaded.module_interface_state["weight"])
        number = loaded.trainer_state["number"]
        found = (low.item(), high.item(), loaded.module_interface_state["weight"].numel())
        return number, "" if found == (number, number, self.elements) else f"holds {found} for {number}"


def start_loop(loop: Loop, prefix: str, first: int, *, stops: bool = False) -> tuple[int, int]:
    """Forks a child that saves first, first + 1, ... and reports each number once `save` returned."""
    reports, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            save = loop.saving(prefix)
            for number in itertools.count(first):
                save(number)
                os.write(report, REPORT.pack(number))
                if stops:
                    stop_in_the_next_save()
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

        def write(target: Target) -> None:
            target.put(HELD_HALF)
            os.write(say_ready, b".")
            os.read(let_go, 1)
            target.put(HELD_HALF)

        try:
            publish(os.path.join(directory, HELD), write, 2 * len(HELD_HALF))
        finally:
            os._exit(0)
    if not select.select([ready], [], [], PATIENCE_S)[0]:
        raise SystemExit("the holder did not start")
    return pid, say_let_go


def indices(directory: str) -> list[int]:
    names = (name for name in os.listdir(directory) if name.startswith("model_"))
    return sorted(int(name.removeprefix("model_").removesuffix(".pt")) for name in names)


def kill_at(
    loop: Loop, prefix: str, first: int, seconds: float | None, look: Callable[[], None]
) -> list[int]:
    """Kills a saving loop after its first save, once `look` has returned.

    Args:
        seconds: how long after that; None for the middle of its second save.

    Returns:
        what it reported.
    """
    pid, reports = start_loop(loop, prefix, first, stops=seconds is None)
    reported = [next_report(reports, PATIENCE_S)]
    look()
    if seconds is None:
        os.waitpid(pid, os.WUNTRACED)
    until = time.monotonic() + (seconds or 0)
    while (number := next_report(reports, until - time.monotonic())) is not None:
        reported.append(number)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while select.select([reports], [], [], 0)[0] and (data := os.read(reports, REPORT.size)):
        reported.append(REPORT.unpack(data)[0])
    os.close(reports)
    return reported


def measure_period(loop: Loop) -> float:
    pid, reports = start_loop(loop, NEW_NAMES, 0)
    times = []
    while len(times) < 8:
        next_report(reports, PATIENCE_S)
        times.append(time.monotonic())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reports)
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(times))


def goes_past_the_page_cache(directory: str) -> bool:
    """Whether the file system takes O_DIRECT, so that saves of the kind `direct` are."""
    with tempfile.TemporaryFile(dir=directory) as file:
        try:
            direct.DirectPieces(file.fileno(), 1, None)
        except OSError as error:
            if error.errno in system_calls.REFUSALS:
                return False
            raise
    return True


def kill_again_and_again(directory: str, kind: str, kills: int, elements: int) -> dict:
    os.mkdir(directory)
    rng = random.Random(20261123)
    found = {"kills": 0, "in_mid_save": 0, "is_direct": goes_past_the_page_cache(directory)}
    found |= {what: [] for what in ("newest", "previous", "lost", "left", "touched")}
    loop = Loop(directory, kind, elements)
    period_s = measure_period(loop)
    holder, say_let_go = start_holder(directory)
    held = {name for name in temporaries(directory) if name.startswith(f".{HELD}.")}
    last = indices(directory)[-1]
    for kill in range(kills):
        if kind == "plain" and found["newest"]:  # which is killed until a kill has torn a file
            break
        prefix = ONE_NAME if kill % 2 else NEW_NAMES
        leftovers = temporaries(directory) - held
        there = indices(directory)[-1]

        def look(leftovers: set[str] = leftovers, kill: int = kill) -> None:
            if stale := leftovers & temporaries(directory):
                found["left"].append([kill, sorted(stale)])

        seconds = rng.uniform(0, 1.5 * period_s) if kill or kind == "plain" else None
        reported = kill_at(loop, prefix, last + 1, seconds, look)
        last = reported[-1] + 1
        found["kills"] += 1
        after = indices(directory)
        newest = name_of(prefix, after[-1])
        number, fault = loop.held_by(newest)
        if fault:
            found["newest"].append([kill, fault])
        elif number not in (reported[-1], last):
            found["lost"].append([kill, f"{reported[-1]} by {number}"])
        found["in_mid_save"] += bool(temporaries(directory) - held) or number == last
        if prefix == NEW_NAMES:
            if missing := {there, *reported} - set(after):
                found["lost"].append([kill, sorted(missing)])
            if previous_fault := loop.held_by(name_of(prefix, after[-2]))[1]:
                found["previous"].append([kill, previous_fault])
            for index in after[:-2]:
                os.unlink(os.path.join(directory, name_of(prefix, index)))
        if not held or not held <= temporaries(directory):
            found["touched"].append(kill)
        if fault:  # else the next kill would be blamed for it
            os.unlink(os.path.join(directory, newest))
    os.write(say_let_go, b".")
    os.waitpid(holder, 0)
    held_path = os.path.join(directory, HELD)
    found["held_save"] = ""
    if os.path.exists(held_path):
        with open(held_path, "rb") as file:
            found["held_save"] = file.read().decode()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    where, megabytes, *campaigns = sys.argv[1:]
    results = {}
    for kind, kills in (one.split("=") for one in campaigns):
        directory = os.path.join(where, kind)
        results[kind] = kill_again_and_again(directory, kind, int(kills), int(megabytes) * 1_000_000 // 4)
    sys.stdout.write(json.dumps(results))
