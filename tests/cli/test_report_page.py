"""The page that `report` makes, read by a parser; tests/browser looks at what a browser shows of it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
from typing import get_args

import pytest

from marlin_ckpt.cli.views.report import movement, timeline
from marlin_ckpt.cli.views.report.page import page
from marlin_ckpt.cli.views.report.parts.figures import number, percent
from marlin_ckpt.operations.report.course import How, Point
from marlin_ckpt.operations.report.values import Report, Size
from tests.support import reports
from tests.support.html_pages import Page

REPORTS = {
    "none": reports.make(0, bad=False),
    "one": reports.make(1, tensors_=8, histograms=True),
    "dozen": reports.make(12, histograms=True),
    "plain": reports.make(6, statistics=False, bad=False),
    "several runs": reports.make(15, 5),
    "compared": dataclasses.replace(reports.make(12), other=reports.make(9, seed=3, directory="runs/b")),
}


@pytest.fixture(scope="module", params=REPORTS)
def read(request):
    """A page, and the report that it is of."""
    report = REPORTS[request.param]
    return Page(page(report)), report


def test_a_page_is_well_formed(read):
    seen, _ = read
    assert seen.faults == []
    assert sorted(seen.identities) == sorted(set(seen.identities))


def test_a_page_asks_for_nothing_from_elsewhere_and_lets_nothing_run_but_its_own_script(read):
    seen, _ = read
    assert [one for one in seen.addresses if not one.startswith("#")] == []
    assert {one[1:] for one in seen.addresses} <= set(seen.identities)
    (policy,) = [v["content"] for n, v in seen.elements if v.get("http-equiv") == "Content-Security-Policy"]
    digests = {
        element: "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        for element, values, content in seen.raw
        if "type" not in values
    }
    assert policy == (
        f"default-src 'none'; style-src '{digests['style']}'; script-src '{digests['script']}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not re.search(
        r"@import|url\(", "".join(content for name, _, content in seen.raw if name == "style")
    )
    for _, values in seen.elements:
        assert not {name for name in values if name == "style" or name.startswith("on")}


def test_the_tables_have_all_numbers_of_the_charts(read):
    seen, report = read
    if len(report.points) < 2:
        return
    cells = {cell.removesuffix(" ★") for row in seen.table("metrics-table") for cell in row}
    for one in (*report.points, *report.measured, *(report.other.measured if report.other else ())):
        assert {number(value) for value in one.metrics.values()} <= cells
    assert [row[0] for row in seen.table("saves-table")[1:]] == [one.name for one in report.points]
    assert sorted(row[0] for row in seen.table("points-table")[1:]) == sorted(
        one.name for one in report.points
    )
    if report.movement:
        changes = [cell for row in seen.table("movement-table")[1:] for cell in row[1:]]
        stated = [
            {"NaN": count, "Inf": infinite, "dead": dead}
            for row in range(len(report.movement.tensors))
            for count, infinite, dead in zip(
                report.movement.nans[row],
                report.movement.infinities[row],
                report.movement.dead[row],
                strict=True,
            )
        ]
        for cell, change, state in zip(
            changes, [c for row in report.movement.change for c in row], stated, strict=True
        ):
            if any(state.values()):
                assert all((word in cell) == bool(found) for word, found in state.items())
            else:
                assert cell == (percent(change) if change is not None else "–")


def test_the_script_points_at_rows_of_tables_that_are_in_the_page(read):
    seen, _ = read
    (data,) = [json.loads(content) for _, values, content in seen.raw if values.get("type")]
    for ident, plot in data["plots"].items():
        assert ident in seen.identities
        rows = len(seen.table(plot["table"])) - 1
        assert all(0 <= stop[0] < rows and -1 <= stop[1] <= 1000 for stop in plot["stops"])


def test_a_byte_of_the_heat_map_is_its_change_to_a_twentieth():
    moved = REPORTS["plain"].movement or REPORTS["dozen"].movement
    low, high = 1e-4, 1.0
    made = movement.cells(moved, low, high)
    width = len(moved.columns)
    for row in range(len(moved.tensors)):
        for column in range(width):
            byte, change = made[row * width + column], moved.change[row][column]
            if moved.nans[row][column]:
                assert byte == movement.NAN
            elif moved.infinities[row][column]:
                assert byte == movement.INFINITE
            elif moved.dead[row][column]:
                assert byte == movement.DEAD
            elif change is None:
                assert byte == movement.NO_VALUE
            elif low < change < high:
                part = (byte - movement.LEAST) / (movement.MOST - movement.LEAST)
                assert low * (high / low) ** part == pytest.approx(change, rel=0.05)


@pytest.mark.parametrize("name", reports.HOSTILE)
def test_a_name_that_somebody_chose_is_text_and_nothing_else(name):
    report = reports.make(6, tensors_=8)
    points = tuple(
        dataclasses.replace(
            one, name=f"{name}{place}", reason=name, metrics={name: 1.0 + place}, reasons=(name,)
        )
        for place, one in enumerate(report.points)
    )
    moved = dataclasses.replace(report.movement, tensors=tuple(f"{name}.{n}" for n in range(8)))
    sizes = tuple(dataclasses.replace(one, name=name) for one in report.sizes)
    hostile = dataclasses.replace(
        report, directory=name, points=points, movement=moved, sizes=sizes, measured=(),
        banners=tuple(dataclasses.replace(one, what=name, hint=name) for one in report.banners),
        happenings=tuple(dataclasses.replace(one, what=name, name=name) for one in report.happenings),
    )  # fmt: skip
    made = page(hostile)
    seen, plain = Page(made), Page(page(report))
    assert seen.faults == []
    assert [n for n, _, _ in seen.raw] == [n for n, _, _ in plain.raw]
    assert "\u202e" not in made
    shown = name.replace("\u202e", "\\u202e")
    assert [row[0] for row in seen.table("saves-table")[1:]] == [f"{shown}{place}" for place in range(6)]
    (content,) = [content for _, values, content in seen.raw if values.get("type")]
    assert not {"<", ">", "&"} & {*content}
    assert json.loads(content)["heat"]["rows"] == list(moved.tensors)


def test_names_that_are_not_utf_8_can_be_stored():
    report = dataclasses.replace(REPORTS["dozen"], directory="run\udcff")
    assert b"run\\xff" in page(report).encode()


def test_two_hundred_checkpoints_of_six_hundred_tensors_take_less_than_a_megabyte():
    for runs in (1, 5):
        assert len(page(reports.make(200, runs, 600)).encode()) < 1_000_000
    assert len(page(reports.make(200, 1, 600, histograms=True)).encode()) < 1_000_000


def test_of_many_measurements_the_extremes_and_those_of_checkpoints_are_drawn():
    report = reports.make(20, measured=4000, statistics=False, bad=False)
    measured = list(report.measured)
    for place, value in ((1_234, 77.5), (2_345, 0.0125)):
        measured[place] = dataclasses.replace(measured[place], metrics={"val_loss": value})
    seen = Page(page(dataclasses.replace(report, measured=tuple(measured))))
    rows = seen.table("metrics-table")
    assert len(rows) <= 1100
    cells = {cell.removesuffix(" ★") for row in rows for cell in row}
    assert {"77.5", "0.0125"} <= cells
    assert {number(one.metrics["val_loss"]) for one in report.points} <= cells
    assert re.search(r"[\d,]+ of 4,\d+ measurements are drawn", seen.text)


def test_without_statistics_a_sentence_says_how_to_get_them(read):
    seen, report = read
    said = "checkpointer.statistics: true" in seen.text and "--stats" in seen.text
    assert said == (report.movement is None and bool(report.points))


def test_one_checkpoint_has_the_sections_that_it_can_have():
    point = Point(run_id="ab", name="model_3.pt", index=3, step=30, size_bytes=2000, metrics={"loss": 0.25})
    sizes = (Size(name="w", group="module", dtype="float32", shape=(3,), size_bytes=12),)
    report = Report(
        directory="run/model_3.pt", made=reports.at(0), version="1", is_directory=False, points=(point,),
        sizes=sizes, newest=0,
    )  # fmt: skip
    seen = Page(page(report))
    assert seen.faults == []
    assert {"metrics", "sizes", "summary"} == {v["id"] for n, v in seen.elements if n == "section"}
    assert "0.25" in seen.text


@pytest.mark.parametrize("is_directory", [True, False])
def test_a_checkpoint_without_an_index_and_a_step_goes_by_its_name(is_directory):
    report = reports.make(1, tensors_=8, bad=False)
    unnumbered = tuple(
        dataclasses.replace(one, name="weights.safetensors", index=None, step=None) for one in report.points
    )
    seen = Page(page(dataclasses.replace(report, points=unnumbered, is_directory=is_directory)))
    assert "weights.safetensors" in seen.text or not is_directory
    assert "None" not in seen.text


def test_of_many_runs_the_page_says_how_many_it_does_not_draw():
    seen = Page(page(reports.make(12, 12, statistics=False)))
    assert seen.text.count("4 older runs not drawn.") == 2


def test_beside_many_runs_of_its_own_a_page_draws_the_runs_of_the_other_directory():
    other = reports.make(9, seed=3, directory="runs/b", statistics=False)
    seen = Page(page(dataclasses.replace(reports.make(20, 10, statistics=False), other=other)))
    assert any("(compared)" in row[0] for row in seen.table("metrics-table"))


@pytest.mark.parametrize("how", get_args(How))
def test_every_end_of_a_process_has_a_sign_and_a_word(how):
    report = REPORTS["plain"]
    run = report.runs[0]
    ended = dataclasses.replace(run, starts=tuple(dataclasses.replace(one, how=how) for one in run.starts))
    seen = Page(page(dataclasses.replace(report, runs=(ended,))))
    assert all(row[4].strip() for row in seen.table("runs-table"))
    signs = [values["href"] for name, values in seen.elements if name == "use"]
    assert f"#{timeline.ENDS[how][0]}" in signs


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.0])
def test_any_number_can_be_drawn(value):
    report = reports.make(4, statistics=False, measured=4)
    points = tuple(
        dataclasses.replace(one, metrics={"loss": value if place % 2 else 1.0})
        for place, one in enumerate(report.points)
    )
    seen = Page(page(dataclasses.replace(report, points=points, measured=())))
    assert seen.faults == []
    assert number(value) in {cell for row in seen.table("metrics-table") for cell in row}
    places = [v["y"] for n, v in seen.elements if n == "use" and "y" in v]
    assert all(math.isfinite(float(one)) for one in places)
