"""What `advise` tells of given times; what it measures is in test_cli_advise.py."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.fields import size_of
from marlin_ckpt.operations.advice import Figures, advise

FIGURES = Figures(
    size_bytes=1000, save_s=0.5, call_s=0.01, copy_s=0.1, processor_s=0.2, restore_s=1.0, cores=2
)
times = st.floats(1e-4, 1e3)


def advice_of(figures=FIGURES, max_overhead=0.05, step_s=None, mtbf_s=None):
    return advise(figures, max_overhead=max_overhead, step_s=step_s, mean_time_between_failures_s=mtbf_s)


def test_a_step_hides_as_much_of_the_copy_as_it_lasts():
    assert advice_of().stall_s == pytest.approx(0.11)
    assert advice_of(step_s=0.04).stall_s == pytest.approx(0.07)
    assert advice_of(step_s=2.0).stall_s == pytest.approx(0.01)


def test_a_save_costs_its_stall_and_what_it_takes_of_busy_processors():
    assert advice_of(step_s=1.0).cost_s == pytest.approx(0.01 + 0.2 / 2)


def test_the_shortest_period_keeps_within_the_budget_and_is_a_whole_number_of_steps():
    shortest = advice_of(step_s=0.3).shortest
    assert shortest.steps == math.ceil(0.11 / 0.05 / 0.3)
    assert shortest.period_s == pytest.approx(shortest.steps * 0.3)
    assert shortest.overhead <= 0.05


def test_no_period_is_shorter_than_the_disk_needs():
    assert advice_of(max_overhead=0.9).shortest.period_s == FIGURES.save_s


def test_a_failure_loses_half_a_period_and_the_save_that_is_under_way():
    minute = next(one for one in advice_of().periods if one.period_s == 60)
    assert minute.lost_s == pytest.approx(30.5)
    assert minute.waste is None


def test_the_best_period_is_youngs_where_the_budget_allows_it():
    advice = advice_of(mtbf_s=3600.0, step_s=1.0)
    assert advice.best.period_s == math.ceil(math.sqrt(2 * 0.11 * 3600))
    assert advice_of(mtbf_s=1.0, step_s=1.0).best == advice_of(mtbf_s=1.0, step_s=1.0).shortest


def test_a_state_of_another_size_takes_times_in_proportion():
    scaled = FIGURES.scaled_to(4000)
    assert (scaled.size_bytes, scaled.save_s, scaled.restore_s, scaled.cores) == (4000, 2.0, 4.0, 2)


@given(times, times, times, times, st.floats(0.001, 0.9), st.none() | times, st.none() | st.floats(1, 1e7))
def test_for_any_times_the_advice_keeps_the_budget_and_no_other_period_wastes_less(
    save_s, copy_s, processor_s, restore_s, max_overhead, step_s, mtbf_s
):
    figures = Figures(
        size_bytes=1, save_s=save_s, call_s=copy_s / 10, copy_s=copy_s, processor_s=processor_s,
        restore_s=restore_s, cores=2,
    )  # fmt: skip
    advice = advice_of(figures, max_overhead, step_s, mtbf_s)
    assert advice.shortest.overhead <= max_overhead * (1 + 1e-6)
    assert list(advice.periods) == sorted(advice.periods, key=lambda one: one.period_s)
    assert advice.shortest in advice.periods
    if mtbf_s is None:
        assert advice.best is None
    elif step_s is None:  # else it is rounded to whole steps
        assert all(advice.best.waste <= one.waste * (1 + 1e-6) for one in advice.periods)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1.5GB", 1_500_000_000),
        ("500 MB", 500_000_000),
        ("64MiB", 64 << 20),
        ("7", 7),
        ("2k", 2000),
        (".5TB", 5e11),
    ],
)
def test_a_size_is_read_in_decimal_and_binary_units(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "1XB", "1.5.2GB", "0", "0.2", "1iB", "1e9", "NaN", "1 G B"]
)
def test_what_is_no_size_is_refused_in_words(text):
    with pytest.raises(ValueError, match="expected a size, such as"):
        size_of(text)
