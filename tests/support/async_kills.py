"""Kills runs that save asynchronously, at random moments; see async_child.py."""

from __future__ import annotations

import functools
import itertools
import os
import random
import select
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from marlin_ckpt import Checkpoint, Saver
from marlin_ckpt.storage.local import writer
from tests.support.async_child import (
    MESSAGE,
    NEW_NAMES,
    PATIENCE_S,
    Training,
    checkpointer_for,
    checksum,
    held_by,
    name_of,
    run,
    stop_in_the_next_save,
    temporaries,
)

ONE_NAME = "last"  # each save over the one before
HARM = {"early": "lost", "plain": "torn"}  # of the kinds that are killed until a kill has done it


def saving(directory: str, kind: str, prefix: str) -> Callable[[Checkpoint, int], list[int]]:
    """Makes a function that begins a save and tells which ones have become durable meanwhile."""
    under_way: deque[Any] = deque()
    if kind == "plain":

        def save(checkpoint: Checkpoint, number: int) -> list[int]:
            durable = []
            if under_way:
                thread, before = under_way.popleft()
                thread.join()
                durable.append(before)
            path = os.path.join(directory, name_of(prefix, number))
            thread = threading.Thread(target=torch.save, args=(checkpoint.payload(), path))
            thread.start()
            under_way.append((thread, number))
            return durable

        return save
    writer._LARGE_BYTES = sys.maxsize if kind == "buffered" else 0
    if kind == "saver":
        told: deque[int] = deque()
        saver = Saver(on_durable=lambda report: told.append(int(report.metrics["number"])))

        def save_any(checkpoint: Checkpoint, number: int) -> list[int]:
            path = os.path.join(directory, name_of(prefix, number))
            saver.save(checkpoint.payload(), path, metrics={"number": number})
            return [told.popleft() for _ in range(len(told))]

        return save_any
    one = checkpointer_for(directory, prefix)

    def save_behind(checkpoint: Checkpoint, number: int) -> list[int]:
        one.save(checkpoint, number if prefix == NEW_NAMES else 0)
        under_way.append(number)
        return [under_way.popleft() for _ in ([0] if kind == "early" else one.take_reports())]

    return save_behind


class Loop:
    """A child that trains and saves at each step, and what it tells of that."""

    def __init__(self, directory: str, kind: str, prefix: str, first: int, *, stops: bool = False) -> None:
        self.asked: dict[int, int] = {}
        self.durable: list[int] = []
        self._messages, tell = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                training, save = Training(first), saving(directory, kind, prefix)
                for number in itertools.count(first):
                    training.step()
                    checkpoint = training.checkpoint(number)
                    os.write(tell, MESSAGE.pack(False, number, checksum(checkpoint)))
                    for durable in save(checkpoint, number):
                        os.write(tell, MESSAGE.pack(True, durable, 0))
                        if stops:
                            stop_in_the_next_save()
            finally:
                os._exit(70)
        os.close(tell)

    def read(self, until: float) -> bool:
        """Waits for a message; whether there was one."""
        if not select.select([self._messages], [], [], max(0.0, until - time.monotonic()))[0]:
            return False
        if data := os.read(self._messages, MESSAGE.size):
            is_durable, number, its_checksum = MESSAGE.unpack(data)
            if is_durable:
                self.durable.append(number)
            else:
                self.asked[number] = its_checksum
        return bool(data)

    def wait_for_durable(self, count: int) -> None:
        until = time.monotonic() + PATIENCE_S
        while len(self.durable) < count:
            if not self.read(until):
                raise SystemExit("the saving loop ended by itself or is stuck")

    def go_on(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.read(until)

    def wait_until_it_stops(self) -> None:
        os.waitpid(self._pid, os.WUNTRACED)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        while self.read(time.monotonic() + PATIENCE_S):
            pass
        os.close(self._messages)


def measure_period(directory: str, kind: str) -> float:
    loop, times = Loop(directory, kind, NEW_NAMES, 0), []
    for count in range(1, 9):
        loop.wait_for_durable(count)
        times.append(time.monotonic())
    loop.kill()
    for name in os.listdir(directory):
        os.unlink(os.path.join(directory, name))
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(times))


def kill_again_and_again(directory: str, times: int, *, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {"kills": 0, "in_mid_save": 0, "durable": 0, "torn": [], "lost": [], "left": []}
    rng = random.Random(20261201)
    period_s = measure_period(directory, kind)
    first = 0
    for kill in range(times):
        if kind in HARM and found[HARM[kind]]:
            break
        is_first = kill == 0 and kind not in HARM
        prefix = ONE_NAME if kill % 3 == 2 else NEW_NAMES
        leftovers = temporaries(directory)
        loop = Loop(directory, kind, prefix, first, stops=is_first)
        loop.wait_for_durable(1)
        if stale := leftovers & temporaries(directory):
            found["left"].append([kill, sorted(stale)])
        if is_first:
            loop.wait_until_it_stops()
        else:
            loop.go_on(rng.uniform(0, 1.5 * period_s))
        loop.kill()
        found["kills"] += 1
        found["durable"] += len(loop.durable)
        found["in_mid_save"] += bool(temporaries(directory))
        held = {}
        for name in set(os.listdir(directory)) - temporaries(directory):
            held[name], fault = held_by(directory, name, loop.asked)
            found["torn"] += [[kill, fault]] if fault else []
            os.unlink(os.path.join(directory, name))
        for number in loop.durable:
            its_name = name_of(prefix, number)
            if held.get(its_name, -1) < number:
                found["lost"].append([kill, number])
        first = max(loop.asked) + 1
    return found


if __name__ == "__main__":
    kinds = ("direct", "buffered", "saver", "early", "plain")
    run({kind: functools.partial(kill_again_and_again, kind=kind) for kind in kinds})
