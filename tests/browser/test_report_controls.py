"""The controls of the page of a report, by pointer and by keyboard: switches, theme, values, heat map."""

from __future__ import annotations

import re

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.support import reports

DOZEN = reports.make(12, tensors_=40)
MANY = reports.make(60, tensors_=300)
SHOWN = """
return [...document.querySelectorAll("#chart-0 svg.plot")]
  .filter((one) => getComputedStyle(one).display !== "none").map((one) => one.getAttribute("class"))
"""
BOX = "const b = document.querySelector(arguments[0]).getBoundingClientRect(); return [b.x, b.y, b.width]"


def test_the_switches_show_steps_or_time_and_a_linear_or_logarithmic_scale(opened):
    browser = opened(DOZEN)
    assert browser.run(SHOWN) == ["plot steps log"]
    browser.click("#linear")
    assert browser.run(SHOWN) == ["plot steps lin"]
    browser.click("#by-time")
    assert browser.run(SHOWN) == ["plot time lin"]
    browser.run("document.getElementById('by-time').focus()")
    browser.press(Keys.ARROW_LEFT)
    assert browser.run(SHOWN) == ["plot steps lin"]


def test_the_switches_work_without_a_script(opened):
    browser = opened(DOZEN, scripts=False)
    browser.click("#by-time")
    shown = [
        one.get_attribute("class")
        for one in browser.driver.find_elements("css selector", "#chart-0 svg.plot")
        if one.is_displayed()
    ]
    assert shown == ["plot time log"]
    assert browser.text(".noscript")


def test_the_theme_changes_at_the_button_and_the_heat_map_with_it(opened):
    browser = opened(DOZEN, theme="dark")
    background = "return getComputedStyle(document.body).backgroundColor"
    cell = (
        "return [...document.getElementById('heat-cells').getContext('2d').getImageData(100, 8, 1, 1).data]"
    )
    before = browser.run(background), browser.run(cell)
    assert browser.text("#theme") == "Light theme"
    browser.click("#theme")
    after = browser.run(background), browser.run(cell)
    assert after[0] == "rgb(255, 255, 255)"
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert browser.text("#theme") == "Dark theme"


@pytest.mark.parametrize(
    "plot", ["chart-0", "chart-1", "run-lanes", "size-bars", "stall-bars", "kept-by-rule"]
)
def test_focus_and_the_pointer_show_the_numbers_of_the_same_row_of_the_table(opened, plot):
    browser = opened(DOZEN)
    browser.run("document.getElementById(arguments[0]).scrollIntoView({block: 'center'})", plot)
    element = browser.driver.find_element("id", plot)
    browser.run("arguments[0].focus({focusVisible: true, preventScroll: true})", element)
    browser.press(Keys.HOME)
    focused, said = browser.text("#tip"), browser.run("return document.getElementById('said').textContent")
    box = browser.run(BOX, ".dot:not([hidden])")
    values = re.split(r"\n", focused)
    assert all(value in said for value in values)
    browser.run("document.activeElement.blur()")
    assert browser.text("#tip") == ""
    browser.point_at(box[0] + 6, box[1] + 6)
    assert browser.text("#tip") == focused


def test_arrow_keys_go_from_value_to_value_and_escape_hides_them(opened):
    browser = opened(DOZEN)
    browser.run("document.getElementById('size-bars').focus({focusVisible: true})")
    assert "model_3000.pt" in browser.text("#tip")
    browser.press(Keys.ARROW_LEFT)
    assert "model_2750.pt" in browser.text("#tip")
    browser.press(Keys.HOME)
    assert "model_250.pt" in browser.text("#tip")
    browser.press(Keys.ESCAPE)
    assert browser.text("#tip") == ""


def test_the_tab_key_reaches_every_control_in_the_order_of_the_page(opened):
    browser = opened(DOZEN)
    order = []
    for _ in range(400):
        browser.press(Keys.TAB)
        place = browser.run(
            "const a = document.activeElement; return a === document.body ? null : "
            "[...document.querySelectorAll('*')].indexOf(a)"
        )
        if place is None or place in order:
            break
        order.append(place)
    reached = browser.run("return arguments[0].map((p) => document.querySelectorAll('*')[p].id)", order)
    assert order == sorted(order)
    assert {"theme", "by-steps", "chart-0", "heat-cells", "size-bars", "kept-by-rule"} <= set(reached)


def lines(browser):
    return browser.run("return [...document.querySelectorAll('.heat-names li')].map((one) => one.title)")


def test_blocks_of_the_heat_map_unfold_and_fold(opened):
    browser = opened(MANY)
    folded = lines(browser)
    assert "layers.3" in folded
    assert "layers.3.mlp.up.weight" not in folded
    browser.click(".heat-names li[title='layers.3'] button")
    assert lines(browser).index("layers.3.mlp.up.weight") > lines(browser).index("layers.3")
    assert browser.driver.switch_to.active_element.get_attribute("aria-expanded") == "true"
    browser.click("#unfold")
    assert lines(browser) == folded
    browser.click("#unfold")
    assert set(MANY.movement.tensors) <= set(lines(browser))
    height = browser.run("return document.getElementById('heat-cells').getBoundingClientRect().height")
    names = browser.run(
        "return [...document.querySelectorAll('.heat-names li')].map((one) => one.offsetHeight)"
    )
    assert height == sum(names)


def test_a_cell_of_the_heat_map_says_its_number_to_the_keyboard_and_to_the_pointer(opened):
    browser = opened(DOZEN)
    browser.run("document.getElementById('heat-cells').focus({focusVisible: true})")
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    browser.press(Keys.HOME, Keys.ARROW_RIGHT)
    row = lines(browser)[3]
    tensor = DOZEN.movement.tensors.index(row)
    shown = browser.text("#tip")
    assert row in shown
    stated = float(re.search(r"about ([\d.,]+) %", shown).group(1))
    assert stated == pytest.approx(DOZEN.movement.change[tensor][1] * 100, rel=0.08)
    box = browser.run(BOX, ".heat-cell")
    browser.run("document.activeElement.blur()")
    browser.point_at(box[0] + box[2] / 2, box[1] + 8)
    assert browser.text("#tip") == shown


def test_what_is_not_a_number_and_what_is_dead_is_said_and_has_a_sign(opened):
    browser = opened(DOZEN)
    browser.run("document.getElementById('heat-cells').focus({focusVisible: true})")
    names = lines(browser)
    for tensor, words in ((5, "12,345 NaN"), (1, "dead: all values equal")):
        browser.press(Keys.PAGE_UP, Keys.PAGE_UP, Keys.PAGE_UP, Keys.PAGE_UP, Keys.PAGE_UP)
        browser.press(*[Keys.ARROW_DOWN] * names.index(DOZEN.movement.tensors[tensor]), Keys.END)
        assert words in browser.text("#tip")
        colours = browser.run(
            "const b = document.querySelector('.heat-cell').getBoundingClientRect();"
            "const c = document.getElementById('heat-cells'); const o = c.getBoundingClientRect();"
            "const p = c.getContext('2d');"
            "const d = p.getImageData(b.x - o.x + 2, b.y - o.y + 2, b.width - 4, b.height - 4).data;"
            "const found = {}; for (let i = 0; i < d.length; i += 4) found[d.slice(i, i + 4).join()] = 1;"
            "return Object.keys(found).length"
        )
        assert colours > 2  # a sign, not one colour


def test_the_numbers_of_a_block_are_a_table_where_there_are_too_many_for_one(opened):
    browser = opened(MANY)
    browser.click("#block-details summary")
    choice = browser.driver.find_element("id", "block-choice")
    Select(choice).select_by_value("layers.7")
    rows = "return [...document.querySelectorAll('#block-table tbody tr')]"
    cells = browser.run(f"{rows}.map((row) => [...row.cells].map((cell) => cell.textContent))")
    tensor = MANY.movement.tensors.index(cells[2][0])
    for cell, change in zip(cells[2][2:], MANY.movement.change[tensor][1:], strict=True):
        assert float(cell.removesuffix(" %").replace(",", "")) == pytest.approx(change * 100, rel=0.1)
    assert browser.barriers() == []
