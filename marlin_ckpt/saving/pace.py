"""Measures what saves cost a run, from which `cadence` computes when the next one is due."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from marlin_ckpt.cadence import Cadence, StepTimes


class Pace:
    """The costs of the saves so far, and of the one under way.

    All but `ended` is used by the thread that trains.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began_s = clock()
        self._cadence = Cadence(max_overhead=1.0, at_s=self._began_s)
        self._steps = StepTimes()
        self._waited_s = 0.0
        self._was_saving = False
        self._save_began_s = self._began_s
        self._is_under_way = False
        self._ended: deque[float] = deque()
        self.cost_s = 0.0

    def waited(self, seconds: float) -> None:
        """Notes for how long training has waited for a save or a copy."""
        self._waited_s += seconds

    def save_began(self) -> None:
        """Notes that a save begins now."""
        self._save_began_s = self._clock()
        self._was_saving = self._is_under_way = True

    def save_ended(self, stall_s: float) -> None:
        """Notes, from any thread, that the save has ended, and its whole stall."""
        self._ended.append(stall_s)

    def before_step(self, *, is_saving: bool) -> None:
        """Notes that an optimizer is about to step."""
        self._steps.step(self._clock(), self._waited_s, is_saving=is_saving or self._was_saving)
        self._waited_s = 0.0
        self._was_saving = is_saving

    def is_due(self, max_overhead: float, mean_time_between_failures_s: float | None) -> bool:
        """Whether the next save is due.

        Args:
            max_overhead: the share of the time that saves may cost.
            mean_time_between_failures_s: of the machine, or None.
        """
        self._settle()
        if self._is_under_way:
            return False
        self._cadence = replace(
            self._cadence,
            max_overhead=max_overhead,
            mean_time_between_failures_s=mean_time_between_failures_s,
        )
        return self._clock() >= self._cadence.due_s()

    def share(self) -> float:
        """The share of the time since the beginning that saves have cost."""
        self._settle()
        return self.cost_s / max(self._clock() - self._began_s, 1e-9)

    def _settle(self) -> None:
        while self._ended:
            self._is_under_way = False
            cost_s = self._ended.popleft() + self._steps.take()
            self.cost_s += cost_s
            self._cadence = self._cadence.saved(self._save_began_s, self._clock(), cost_s)
