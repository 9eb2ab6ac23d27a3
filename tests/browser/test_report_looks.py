"""How the page of a report looks in a browser: whole, without errors, readable by all; see build/report/."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support import reports

REPORTS = {
    "0": reports.make(0, bad=False),
    "1": reports.make(1, tensors_=12),
    "12": reports.make(12, histograms=True),
    "12 of 5 runs": reports.make(12, 5),
    "200": reports.make(200, 1, 600, histograms=True),
    "200 of 5 runs": reports.make(200, 5, 600),
    "without statistics": reports.make(6, statistics=False, bad=False),
    "compared": dataclasses.replace(reports.make(12), other=reports.make(9, seed=3, directory="runs/b")),
    "one file": dataclasses.replace(
        reports.make(1, tensors_=12, histograms=True, measured=1),
        is_directory=False, directory="runs/gpt-small/model_250.pt", measured=(), runs=(), retention=(),
        movement=None,
    ),
    "long names": dataclasses.replace(
        reports.make(12, tensors_=12),
        directory="/".join(["a-long-name-of-a-folder"] * 9),
        points=tuple(
            dataclasses.replace(one, name=f"{'x' * 250}_{place}.pt", metrics={"metric" * 20: 1.0 + place})
            for place, one in enumerate(reports.make(12).points)
        ),
        measured=(),
    ),
}  # fmt: skip
LARGE = ("200", "200 of 5 runs")
# Pairs of boxes of text that meet, in drawings that are shown; and text that a line goes through.
MEETING = """
const shown = (one) => one.getBoundingClientRect().width > 0;
const apart = (a, b) => a.left >= b.right - 0.5 || a.top >= b.bottom - 1;
const meet = (a, b) => !apart(a, b) && !apart(b, a);
const found = [];
for (const drawing of document.querySelectorAll("svg.plot")) {
  if (getComputedStyle(drawing).display === "none") continue;
  const texts = [...drawing.querySelectorAll("text")].filter(shown)
    .map((one) => [one.textContent, one.getBoundingClientRect(), getComputedStyle(one).paintOrder]);
  texts.forEach(([name, box], place) => {
    for (const [other, beside] of texts.slice(place + 1)) {
      if (meet(box, beside)) found.push(`${name} | ${other}`);
    }
  });
  for (const line of drawing.querySelectorAll("line.break, line.axis")) {
    const one = line.getBoundingClientRect();
    for (const [name, box, order] of texts) {
      if (order.startsWith("stroke")) continue;  // it has the ground's colour around it
      const across = one.left > box.left && one.right < box.right;
      if (across && one.top < box.bottom - 1 && one.bottom > box.top + 1) found.push(`line | ${name}`);
    }
  }
  for (const path of drawing.querySelectorAll("path.curve")) {
    const matrix = path.getScreenCTM();
    const length = path.getTotalLength();
    for (let part = 0; part <= 400; part++) {
      const { x, y } = path.getPointAtLength((part / 400) * length).matrixTransform(matrix);
      for (const [name, box] of texts) {
        const across = x > box.left && x < box.right;
        if (across && y > box.top + 1 && y < box.bottom - 1) found.push(`curve | ${name}`);
      }
    }
  }
}
for (const chart of document.querySelectorAll(".chart")) {
  const plot = chart.querySelector(".plots").getBoundingClientRect();
  for (const entry of chart.querySelectorAll("figcaption h3, figcaption li")) {
    if (meet(entry.getBoundingClientRect(), plot)) found.push(`plot | ${entry.textContent}`);
  }
}
return [...new Set(found)];
"""
OUTSIDE = """
const wide = document.documentElement.clientWidth;
return [document.documentElement.scrollWidth - wide, [...document.querySelectorAll("svg.plot text")]
  .filter((one) => one.getBoundingClientRect().width)
  .filter((one) => one.getBoundingClientRect().left < 0 || one.getBoundingClientRect().right > wide)
  .map((one) => one.textContent)];
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", REPORTS)
def test_a_page_is_whole_without_errors_and_without_barriers(opened, name, width, theme):
    browser = opened(REPORTS[name], width=width, theme=theme)
    browser.picture(f"{name.replace(' ', '-')}-{width}-{theme}")
    assert browser.messages() == []
    assert browser.run(OUTSIDE) == [0, []]
    assert browser.run(MEETING) == []
    if name not in LARGE or (width, theme) in (
        (390, "light"),
        (1280, "dark"),
    ):  # of a large page it takes long
        assert browser.barriers() == []


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("switches", [["by-time"], ["linear"], ["logarithmic"], ["by-time", "logarithmic"]])
@pytest.mark.parametrize("name", ["1", "12", "12 of 5 runs", "200 of 5 runs", "compared"])
def test_names_meet_neither_each_other_nor_curves_whatever_is_switched_on(opened, name, switches, width):
    browser = opened(REPORTS[name], width=width)
    for one in switches:
        browser.click(f"#{one}")
    assert browser.run(MEETING) == []
    assert browser.run(OUTSIDE) == [0, []]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_unfolded_has_no_barriers(opened, theme):
    browser = opened(REPORTS["12"], theme=theme)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.barriers() == []
    assert browser.run(OUTSIDE) == [0, []]


@pytest.mark.parametrize("name", reports.HOSTILE)
def test_a_name_that_somebody_chose_runs_nothing(opened, name):
    report = reports.make(6, tensors_=8)
    points = tuple(
        dataclasses.replace(one, name=f"{name}{place}", reason=name, metrics={name: 1.0 + place})
        for place, one in enumerate(report.points)
    )
    moved = dataclasses.replace(report.movement, tensors=tuple(f"{name}.{n}" for n in range(8)))
    browser = opened(
        dataclasses.replace(report, directory=name, points=points, movement=moved, measured=()), width=390
    )
    assert browser.messages() == []
    assert browser.run("return document.scripts.length") == 2
    assert browser.run(OUTSIDE) == [0, []]
    shown = browser.run("return [...document.querySelectorAll('.heat-names li')].map((one) => one.title)")
    assert f"{name}.0" in [one.replace("\\u202e", "\u202e") for one in shown]


def test_on_paper_a_dark_page_is_light_and_its_buttons_are_gone(opened):
    browser = opened(REPORTS["12"], theme="dark", media="print")
    browser.picture("12-paper")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = "return [...document.querySelectorAll('#theme, #unfold, nav')].every((one) => !one.offsetParent)"
    assert browser.run(hidden)
    assert "layers.0 (6)" in browser.text("#heat-names")


def test_a_dark_heat_map_is_printed_in_the_colours_of_the_legend_beside_it(opened):
    browser = opened(REPORTS["12"], theme="dark")
    pixels = (
        "const c = document.getElementById('heat-cells');"
        "const found = () => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.join();"
    )
    browser.run(
        pixels + "window.dark = found(); addEventListener('beforeprint', () => window.printed = found());"
    )
    browser.driver.print_page()
    browser.run(
        pixels + "window.after = found(); document.getElementById('theme').click(); window.light = found()"
    )
    assert browser.run("return [printed === light, printed === dark, after === dark]") == [True, False, True]
