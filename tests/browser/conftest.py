"""Chromium, driven by its own driver: `make test-browser` says what it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains

from marlin_ckpt.cli.views.report.page import page
from marlin_ckpt.operations.report.values import Report
from tests.support.folders import REPOSITORY

PICTURES = REPOSITORY / "build" / "report"  # of each page that a test opens
_OPTIONS = (
    "--headless=new",
    "--disable-gpu",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--lang=en",
)
_TALLEST = 6000  # pixels of a picture


class Browser:
    """A page in a browser.

    Attributes:
        driver: of the browser.
    """

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.driver = driver
        self._folder = folder

    def open(
        self,
        report: Report,
        *,
        width: int = 1280,
        theme: str = "light",
        scripts: bool = True,
        media: str = "",
    ) -> None:
        """Shows the page of a report in a window of this width, as a system with this theme asks for it."""
        file = self._folder / "report.html"
        file.write_text(page(report), encoding="utf-8")
        self._command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        features = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self._command("Emulation.setEmulatedMedia", media=media, features=features)
        self.driver.get_log("browser")
        self.driver.get(file.as_uri())

    def _command(self, name: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, values)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Presses keys where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def click(self, selector: str) -> None:
        """Clicks an element."""
        self.driver.find_element("css selector", selector).click()

    def point_at(self, x: float, y: float) -> None:
        """Moves the pointer to a place in the window."""
        actions = ActionChains(self.driver)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        actions.perform()

    def text(self, selector: str) -> str:
        """The text of an element, as it is shown; "" where it is not."""
        return self.driver.find_element("css selector", selector).text

    def messages(self) -> list[str]:
        """What the console says since the page was opened."""
        return [one["message"] for one in self.driver.get_log("browser")]

    def picture(self, name: str) -> None:
        """Stores the whole page as a picture in build/report/."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        width, height = self.run("const e = document.documentElement; return [e.clientWidth, e.scrollHeight]")
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=min(height, _TALLEST), deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.driver.save_screenshot(str(PICTURES / f"{name}.png"))
        self._command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )

    def barriers(self) -> list[str]:
        """What axe finds that keeps people from using the page."""
        self.run(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "const done = arguments[0];"
            "axe.run(document, {resultTypes: ['violations']}).then(done, (e) => done(String(e)))"
        )
        assert isinstance(found, dict), found
        return [
            f"{one['id']}: {node['target']} {node['failureSummary']}"
            for one in found["violations"]
            for node in one["nodes"]
        ]


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    options = webdriver.ChromeOptions()
    options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    for one in _OPTIONS:
        options.add_argument(one)
    if os.geteuid() == 0:  # whose processes the browser cannot confine
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.set_script_timeout(120)
        yield driver


@pytest.fixture
def browser(chromium: webdriver.Chrome, tmp_path: Path) -> Browser:
    """A browser that shows reports."""
    return Browser(chromium, tmp_path)


@pytest.fixture
def opened(browser: Browser) -> Callable[..., Browser]:
    """Opens the page of a report, and gives the browser."""

    def show(report: Report, **how: Any) -> Browser:
        browser.open(report, **how)
        return browser

    return show
