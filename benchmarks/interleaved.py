"""Times several calls in turn, round after round, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


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
    calls: Mapping[str, Callable[[], object]], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, Timing]:
    """Times each call in each round, after one round that warms the caches; `before` is not timed."""
    walls: dict[str, list[float]] = {name: [] for name in calls}
    cpus: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            before()
            began, cpu_began = time.perf_counter(), time.process_time()
            call()
            if number:
                walls[name].append(time.perf_counter() - began)
                cpus[name].append(time.process_time() - cpu_began)
    return {name: Timing(statistics.median(walls[name]), statistics.median(cpus[name])) for name in calls}


def machine() -> str:
    """What the figures were measured on."""
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def row(name: str, ours_s: float, other_s: float, bound: float) -> str:
    """One line of a table: the two times, their ratio, and what it must not exceed."""
    times = f"{ours_s * 1e3:8.1f} ms / {other_s * 1e3:8.1f} ms"
    return f"{name:48} {times} = {ours_s / other_s:.2f}  (at most {bound})"
