"""Times several calls in turn, round after round, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds.

    Attributes:
        wall_s: time gone by.
        cpu_s: processor time of this process.
    """

    wall_s: float
    cpu_s: float


def medians(
    calls: Mapping[str, Call], rounds: int, before: Call = lambda: None, *, warm_up: bool = True
) -> dict[str, Timing]:
    """Times each call once a round, in an order of the round's own, since a call can hurt the next.

    Args:
        calls: the calls to time, by name.
        rounds: how often.
        before: done before each call and not timed.
        warm_up: go through all calls once more, at first, and forget that round.
    """
    names = list(calls)
    walls: dict[str, list[float]] = {name: [] for name in names}
    cpus: dict[str, list[float]] = {name: [] for name in names}
    gc.freeze()  # so that collecting what a call leaves behind does not walk through all of torch
    for number in range(0 if warm_up else 1, rounds + 1):
        for name in random.Random(number).sample(names, len(names)):
            gc.collect()
            before()
            began, cpu_began = time.perf_counter(), time.process_time()
            calls[name]()
            wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
            if number:
                walls[name].append(wall_s)
                cpus[name].append(cpu_s)
    gc.unfreeze()
    return {name: Timing(statistics.median(walls[name]), statistics.median(cpus[name])) for name in names}
