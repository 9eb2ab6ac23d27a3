"""How often a run can afford to save: as often as keeps the share of its time below a bound.

Nothing here looks at a clock: times come as arguments, in seconds from any fixed moment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import median

_RECENT = 5  # saves by which the next one's cost is told


def best_interval_s(cost_s: float, mean_time_between_failures_s: float) -> float:
    """The time between saves that loses least to saves and failures together.

    Source: Young, "A first order approximation to the optimum checkpoint interval", CACM 17 (1974).
    """
    return math.sqrt(2 * cost_s * mean_time_between_failures_s)


@dataclass(frozen=True, slots=True)
class Cadence:
    """A budget of time that grows while a run goes on, and that each save draws on.

    Attributes:
        max_overhead: the share of a run's time that saves may take, above 0 and below 1.
        mean_time_between_failures_s: of the machine; None where it is not known.
        at_s: when the budget was last drawn up.
        budget_s: what saves might have taken by then; negative while they have taken more.
        last_s: when the last save began; None before the first.
        costs_s: what the last few saves took.
    """

    max_overhead: float
    mean_time_between_failures_s: float | None = None
    at_s: float = 0.0
    budget_s: float = 0.0
    last_s: float | None = None
    costs_s: tuple[float, ...] = ()

    def saved(self, began_s: float, now_s: float, cost_s: float) -> Cadence:
        """The cadence after a save whose cost is known.

        Args:
            began_s: when it began.
            now_s: when its cost was known.
            cost_s: the time that the run lost by it.
        """
        costs_s = (*self.costs_s, max(cost_s, 0.0))[-_RECENT:]
        # What a quiet time saved up pays for one save and no more, so that they stay spread out.
        budget_s = min(self._budget_s(now_s), median(costs_s)) - max(cost_s, 0.0)
        return replace(self, at_s=now_s, budget_s=budget_s, last_s=began_s, costs_s=costs_s)

    def due_s(self) -> float:
        """When the next save is due."""
        if self.last_s is None:
            return self.at_s  # the first one tells what they cost
        expected_s = median(self.costs_s)
        affordable_s = self.at_s + (expected_s - self.budget_s) / self.max_overhead
        # Saves that come more often than this lose more than failures do.
        least_s = best_interval_s(expected_s, self.mean_time_between_failures_s or 0.0)
        return max(affordable_s, self.last_s + least_s)

    def _budget_s(self, now_s: float) -> float:
        return self.budget_s + self.max_overhead * max(now_s - self.at_s, 0.0)


@dataclass(slots=True)
class StepTimes:
    """How long steps take while nothing is saved, and how much longer while something is.

    Attributes:
        lost_s: what the steps under the present save took beyond the usual.
    """

    lost_s: float = 0.0
    _last_s: float | None = None
    _usual_s: list[float] = field(default_factory=list)

    def step(self, now_s: float, waited_s: float, *, is_saving: bool) -> None:
        """Notes a step.

        Args:
            now_s: when it began.
            waited_s: how long it was held up since the one before for what is counted elsewhere.
            is_saving: whether a save was under way at any time since the one before.
        """
        if self._last_s is not None:
            took_s = now_s - self._last_s - waited_s
            if not is_saving:
                self._usual_s = [*self._usual_s, took_s][-_STEPS:]
            elif self._usual_s:
                self.lost_s += took_s - median(self._usual_s)
        self._last_s = now_s

    def take(self) -> float:
        """What steps have lost since this was last asked; never less than nothing."""
        lost_s, self.lost_s = self.lost_s, 0.0
        return max(lost_s, 0.0)


_STEPS = 64  # by which a usual step is known
