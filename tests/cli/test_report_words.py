"""What the page of a report says: titles, names, numbers and sentences that fit what is drawn."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest

from marlin_ckpt.cli.views.report.page import page
from marlin_ckpt.cli.views.report.parts.figures import number, percent
from marlin_ckpt.operations.report.values import Histogram
from tests.support import reports
from tests.support.html_pages import Page


def metrics(*names):
    """A report of checkpoints of no run, as of another tool, that have these metrics."""
    report = reports.make(6, statistics=False, bad=False)
    points = tuple(
        dataclasses.replace(
            one, run_id="", step=None, metrics={name: 1.0 + place for place, name in enumerate(names)}
        )
        for one in report.points
    )
    return dataclasses.replace(report, points=points, measured=(), runs=(), best=(), happenings=())


def titles(made):
    return [re.sub("<[^>]+>", "", one) for one in re.findall(r"<h3>(.*?)</h3>", made)]


def sections(report):
    return {values["id"] for name, values in Page(page(report)).elements if name == "section"}


def test_a_chart_of_several_metrics_names_each_also_the_one_that_has_the_name_of_all():
    made = page(metrics("loss", "eval_loss"))
    assert titles(made)[0] == "loss"
    assert re.findall(r'class="who"><bdi>(\w+)</bdi>', made) == ["eval_loss", "loss"]
    assert "no run" not in made


def test_a_chart_of_several_metrics_has_the_words_at_the_end_of_all_as_its_title():
    made = page(metrics("eval_samples_per_second", "eval_steps_per_second", "lr"))
    assert {"per_second", "lr"} <= set(titles(made))


@pytest.mark.parametrize(("value", "written"), [(1e-06, "1e−6"), (-2.5e-10, "−2.5e−10"), (1e22, "1e22")])
def test_an_exponent_has_no_zeros_before_it(value, written):
    assert number(value) == written


def test_a_small_part_has_an_exponent_without_zeros_and_a_usual_one_none():
    assert [percent(one) for one in (3e-7, 0.00123, 3.4)] == ["3e−5 %", "0.12 %", "340 %"]


def test_a_tensor_without_a_finite_value_is_counted_and_not_drawn():
    empty = Histogram(tensor="nan.weight", counts=(0,) * 16, low=math.nan, high=math.nan)
    report = dataclasses.replace(
        reports.make(3, tensors_=8, histograms=True), histograms=(empty, *reports.make(3).histograms)
    )
    made = page(report)
    assert "Without any finite value: 1 tensor." in made
    assert '<div class="spreads">' not in made
    assert Page(made).table("spread-table")[1][:3] == ["nan.weight", "NaN", "NaN"]


def test_a_long_name_below_a_picture_of_values_keeps_its_end():
    found = Histogram(tensor="transformer.h.11.attn.c_attn.bias", counts=(1, 2), low=-2.78314e-4, high=1.0)
    made = page(dataclasses.replace(reports.make(3, tensors_=8), histograms=(found,)))
    assert re.search(r"<figcaption><bdi[^>]*>…\S*\.11\.attn\.c_attn\.bias</bdi>", made)
    assert "−0.000278 to 1" in made


def test_a_star_is_explained_only_where_there_is_a_best():
    assert "</svg>best</li>" in page(reports.make(6, bad=False))
    assert "</svg>best</li>" not in page(metrics("loss"))


@pytest.mark.parametrize(
    ("epochs", "said"), [(True, "Measured at the end of each epoch"), (False, "Measured at each")]
)
def test_the_page_says_when_metrics_were_measured(epochs, said):
    assert said in page(reports.make(6) if epochs else metrics("loss"))


def test_times_are_said_to_be_in_utc_where_they_are_times_of_day():
    made = page(reports.make(6))
    assert "Time (UTC)</span>" in made
    assert "times are in UTC" in made
    compared = page(dataclasses.replace(reports.make(6), other=reports.make(6, seed=3)))
    assert "<span>Time</span>" in compared  # which begins with each run


def test_a_directory_without_checkpoints_has_no_sections_about_them():
    nothing = dataclasses.replace(reports.make(0, bad=False), runs=(), happenings=())
    assert sections(nothing) == {"summary", "checkpoints"}


def test_lines_of_retention_say_what_their_number_counts_and_where_each_run_begins():
    report = reports.make(15, 3, statistics=False)
    seen = Page(page(report))
    assert re.search(r"one of the last 3: \d+ checkpoints", seen.text)
    drawing = page(report).split('id="kept-by-rule"')[1].split("</svg>")[0]
    assert re.findall(r'class="x start"[^>]*>(\w+)<', drawing) == [one.run_id[:8] for one in report.runs]


def test_the_name_of_a_run_that_begins_late_ends_where_the_run_does():
    made = page(reports.make(15, 5, statistics=False))
    late = re.findall(r'class="lane end" x="([\d.]+)%"', made)
    assert late
    assert all(float(one) > 70 for one in late)
    assert float(late[-1]) == pytest.approx(100)
