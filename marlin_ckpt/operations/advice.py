"""Advises how often a run should save, from the measured times that a save takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from marlin_ckpt.cadence import best_interval_s
from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import CheckpointNotFoundError

_USUAL_S = (60.0, 600.0, 3600.0, 21600.0)
_TIMES = ("save_s", "call_s", "copy_s", "processor_s", "restore_s")  # those that grow with the state


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How long the saves of a state take, in seconds.

    Attributes:
        size_bytes: of the state.
        save_s: from the call until the file is durable.
        call_s: how long `save` with `async_save` blocks its caller.
        copy_s: how long the copy in the background takes, which the next optimizer step waits for.
        processor_s: the processor time that the background takes.
        restore_s: how long loading into live tensors takes, from the disk.
        cores: how many processors share the work.
    """

    size_bytes: int
    save_s: float
    call_s: float
    copy_s: float
    processor_s: float
    restore_s: float
    cores: int

    def scaled_to(self, size_bytes: int) -> Figures:
        """The figures of a state of another size, each in proportion to it."""
        factor = size_bytes / self.size_bytes
        times = {name: getattr(self, name) * factor for name in _TIMES}
        return replace(self, size_bytes=size_bytes, **times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The consequences of saving once in a period; see `advise`.

    Attributes:
        period_s: the time from save to save.
        overhead: the share of the time that saves take.
        lost_s: the work that a failure is expected to lose: half a period, and the save in progress.
        waste: the share of the time that saves, lost work and restoring take together; None where the mean
            time between failures is not known.
        steps: how many steps a period has; None where their duration is not known.
    """

    period_s: float
    overhead: float
    lost_s: float
    waste: float | None
    steps: int | None


@dataclass(frozen=True, slots=True)
class Advice:
    """How often to save.

    Attributes:
        stall_s: how long training waits for a save.
        cost_s: the most that a save costs training: its stall, and the processor time of the background,
            which a loop that leaves no processor idle has to share.
        shortest: the shortest period within the budget.
        best: the period with the least waste; None where the mean time between failures is not known.
        periods: these and some usual ones, the shortest first.
    """

    stall_s: float
    cost_s: float
    shortest: Period
    best: Period | None
    periods: tuple[Period, ...]


def state_bytes(directory: str, given: int | None) -> int:
    """The size of the state that a run in a directory saves.

    Args:
        directory: where it saves.
        given: that size, where it is known; None takes that of the largest checkpoint.

    Raises:
        CheckpointNotFoundError: there is no such directory, or no checkpoint in it to take the size of.
        StorageError: the directory cannot be read.
    """
    found = catalog.find(directory)
    if given is not None:
        return given
    if not found:
        hint = f"marlin-ckpt advise {directory} --size 1.5GB"
        raise CheckpointNotFoundError("no checkpoint to take the size of", directory, hint)
    return max(entry.size_bytes for entry in found)


def advise(
    figures: Figures, *, max_overhead: float, step_s: float | None, mean_time_between_failures_s: float | None
) -> Advice:
    """Advises how often to save.

    Args:
        figures: how long saves take.
        max_overhead: the share of the time that saves may take, above 0 and below 1.
        step_s: how long a training step takes, behind which the copy is hidden; None where it is not known,
            and the copy counts as stall.
        mean_time_between_failures_s: of the machine, or None.
    """
    stall_s = figures.call_s + max(0.0, figures.copy_s - (step_s or 0.0))
    cost_s = stall_s + figures.processor_s / figures.cores

    def period(wanted_s: float) -> Period:
        steps = None if step_s is None else max(1, math.ceil(wanted_s / step_s - 1e-9))
        period_s = wanted_s if step_s is None or steps is None else steps * step_s
        overhead, lost_s = cost_s / period_s, period_s / 2 + figures.save_s
        waste = None
        if mean_time_between_failures_s is not None:
            waste = overhead + (lost_s + figures.restore_s) / mean_time_between_failures_s
        return Period(period_s=period_s, overhead=overhead, lost_s=lost_s, waste=waste, steps=steps)

    # One save at a time: none is shorter than the disk needs.
    shortest_s = max(cost_s / max_overhead, figures.save_s)
    shortest, best = period(shortest_s), None
    if mean_time_between_failures_s is not None:
        best = period(max(shortest_s, best_interval_s(cost_s, mean_time_between_failures_s)))
    usual = [period(one_s) for one_s in _USUAL_S if one_s > shortest_s]
    of_each_length = {one.period_s: one for one in (*usual, best or shortest, shortest)}
    periods = tuple(of_each_length[length] for length in sorted(of_each_length))
    return Advice(stall_s, cost_s, shortest, best, periods)
