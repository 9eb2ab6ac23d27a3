"""When the next save is due: often, and never so often that saves cost more than their share."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt import ArgumentsError, Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.cadence import Cadence, StepTimes
from marlin_ckpt.config import read_config
from marlin_ckpt.saving.pace import Pace
from tests.support.folders import REPOSITORY

BOUND = 0.035


class Simulation:
    """A run on a clock of its own: steps, and saves that hold it up and slow the steps after them down."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s = self.random.uniform(0, 1e6)
        self.pace = Pace(lambda: self.now_s)
        self.began_s = self.now_s
        self.step_s = 10 ** self.random.uniform(-3, 1)
        self.stall_s = self.step_s * 10 ** self.random.uniform(-2, 1.5)
        self.write_s = self.stall_s * self.random.uniform(0, 10)
        self.slower = self.random.uniform(0, 0.5)
        self.noise = self.random.uniform(0, 0.3)
        self.lost_s = 0.0
        self.saved_at_s: list[float] = []
        self._busy_until_s = -math.inf
        self._is_told = True

    def run(self, steps: int, change_at: int, factor: float) -> None:
        """Steps, and after some of them a disk that is slower or faster by a factor."""
        for number in range(steps):
            if number == change_at:
                self.stall_s *= factor
                self.write_s *= factor
            is_busy = self.now_s < self._busy_until_s
            self.pace.before_step(is_saving=is_busy)
            if not is_busy and not self._is_told:
                self._is_told = True
                self.pace.save_ended(self._stalled_s)
            usual_s = self.step_s * self.random.uniform(1 - self.noise, 1 + self.noise)
            slower_s = usual_s * self.slower if is_busy else 0.0
            self.now_s += usual_s + slower_s
            self.lost_s += slower_s
            if self.pace.is_due(BOUND, None):
                self._save()

    def _save(self) -> None:
        self.saved_at_s.append(self.now_s)
        self.pace.save_began()
        self._stalled_s = self.stall_s * self.random.uniform(0.7, 1.3)
        self.now_s += self._stalled_s
        self.lost_s += self._stalled_s
        self.pace.waited(self._stalled_s)
        self._busy_until_s, self._is_told = self.now_s + self.write_s, False

    def share(self) -> float:
        return self.lost_s / (self.now_s - self.began_s)


def simulated(seed: int) -> Simulation:
    one = Simulation(seed)
    change = 10 ** one.random.uniform(-1, 1)
    cost_s = (one.stall_s + one.write_s * one.slower) * max(change, 1)
    # Long enough for a good many saves at the bound.
    steps = min(int(60 * cost_s / BOUND / one.step_s) + 200, 60_000)
    one.run(steps, steps // 3, change)
    return one


def test_over_many_profiles_saves_cost_no_more_than_their_share_and_never_cease(
    cases: Callable[[int, int], int],
):
    shares, gaps = [], []
    for seed in range(cases(10, 1000)):
        run = simulated(seed)
        length_s = run.now_s - run.began_s
        if len(run.saved_at_s) < 10:
            continue
        shares.append(run.share())
        last_cost_s = run.stall_s + run.write_s
        gaps.append((run.now_s - run.saved_at_s[-1]) / max(length_s / 3, 20 * last_cost_s / BOUND))
    assert len(shares) > cases(10, 1000) / 2
    assert max(shares) <= BOUND * 1.1
    assert max(gaps) <= 1


def test_where_steps_are_short_beside_the_bound_most_of_the_budget_is_used():
    run = Simulation(3)
    run.step_s, run.stall_s, run.write_s, run.slower, run.noise = 0.01, 0.2, 0.4, 0.1, 0.1
    run.run(60_000, -1, 1)
    assert run.share() > BOUND * 0.8


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0.001, 0.5))
def test_the_next_save_is_due_after_a_finite_time_that_pays_for_the_last_one(costs, bound):
    cadence, now = Cadence(bound), 0.0
    for cost in costs:
        now = max(now, cadence.due_s())
        assert math.isfinite(now)
        cadence = cadence.saved(now, now + cost, cost)
        now += cost
    assert sum(costs) <= bound * (cadence.due_s() + 1e-6) + 1e-6


@given(st.floats(0.01, 100), st.floats(1, 1e6), st.floats(0.001, 0.5))
def test_saves_are_never_closer_than_young_s_optimum(cost, failures_s, bound):
    cadence = Cadence(bound, failures_s).saved(10.0, 10.0 + cost, cost)
    assert cadence.due_s() >= 10.0 + math.sqrt(2 * cost * failures_s)


def test_the_first_save_is_due_at_once_since_nothing_else_tells_what_saves_cost():
    assert Cadence(BOUND, at_s=5.0).due_s() == 5.0


def test_the_share_is_what_saves_have_cost_of_the_time_since_the_beginning():
    now_s = 100.0
    pace = Pace(lambda: now_s)
    now_s += 6
    pace.save_began()
    now_s += 2
    pace.save_ended(2.0)
    assert pace.share() == 2 / 8


def test_steps_that_are_slower_under_a_save_count_as_its_cost_and_waits_are_not_counted_twice():
    steps, now = StepTimes(), 0.0
    for _ in range(20):
        steps.step(now, 0.0, is_saving=False)
        now += 1
    now += 5  # the save itself
    steps.step(now, 5.0, is_saving=True)
    for _ in range(4):
        now += 1.25
        steps.step(now, 0.0, is_saving=True)
    assert steps.take() == pytest.approx(1.0)
    assert steps.take() == 0


@pytest.mark.parametrize("is_async", [True, False])
def test_a_checkpointer_with_period_auto_saves_first_at_once_and_then_not_until_it_is_paid_for(
    tmp_path, is_async
):
    arguments = DefaultCheckpointerArguments(
        save_dir=str(tmp_path), period="auto", max_overhead=0.0001, async_save=is_async
    )
    with DefaultCheckpointer(arguments) as one:
        state = Checkpoint({"weight": torch.ones(1000)}, {}, {})
        assert one.save(state, 7)
        one.wait()
        assert one.save(state, 8) is None
        assert one.save(state, 9, force=True)
        one.wait()
        assert 0 < one.overhead() <= 1
    assert {path.name for path in Path(tmp_path).iterdir()} == {"model_7.pt", "model_9.pt"}


@pytest.mark.parametrize("is_async", [True, False])
def test_training_has_waited_for_a_save_no_longer_than_it_took(tmp_path, monkeypatch, is_async):
    waited: list[float] = []
    clock = itertools.count()  # a reading of it is its unit of time
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(Pace, "waited", lambda _, seconds: waited.append(seconds))
    arguments = DefaultCheckpointerArguments(save_dir=str(tmp_path), async_save=is_async)
    with DefaultCheckpointer(arguments) as one:
        began = next(clock)
        one.save(Checkpoint({"weight": torch.ones(1000)}, {}, {}), 7)
        assert 0 < sum(waited) <= next(clock) - began


@pytest.mark.parametrize("period", ["often", 0, 1.5, True])
def test_another_period_is_refused_in_words(period):
    with pytest.raises(ArgumentsError, match=r"period.*(expected an integer or auto|1 or more)"):
        DefaultCheckpointerArguments(period=period)


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("3", 3)])
def test_a_yaml_file_may_say_auto(tmp_path, text, value):
    path = tmp_path / "run.yaml"
    shipped = REPOSITORY / "configs" / "ci.yaml"
    path.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    assert read_config(str(path), [f"checkpointer.period={text}"]).checkpointer.period == value
