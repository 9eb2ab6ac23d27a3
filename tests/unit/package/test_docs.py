"""The README and the pages show what commands print, their Python runs, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import marlin_ckpt
from marlin_ckpt.version import __version__
from tests.support import warm_commands
from tests.support.folders import REPOSITORY
from tools import figures, tour
from tools.page import Block, read
from tools.shell import StandIns

PAGES = tour.pages()
ELSEWHERE = {"accelerate.md", "ignite.md", "lightning.md", "transformers.md"}  # see tests/integrations/


def named(pages: list[Path]) -> list[object]:
    return [pytest.param(page, id=page.relative_to(REPOSITORY).as_posix()) for page in pages]


def python(page: Path) -> list[str]:
    """The Python of a page but for what is saved as a file, which the page's commands run."""
    blocks = (step for step in read(page.read_text()).steps if isinstance(step, Block))
    return [block.body for block in blocks if block.language == "python" and not block.file]


@pytest.fixture
def _served(page: Path, request: pytest.FixtureRequest) -> None:
    """Has the commands of the page on object storage find a server."""
    if page == tour.SERVED:
        request.getfixturevalue("s3")


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tour.furnish(directory := tmp_path_factory.mktemp("tour"), small=True)
    return directory


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    directory = tmp_path_factory.mktemp("bin")
    return StandIns(directory, (warm_commands.make(directory),))


@pytest.fixture(scope="module")
def readme(furnished: Path, quick: StandIns, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory that the commands of the README leave, and the README as they print it."""
    left = shutil.copytree(furnished, tmp_path_factory.mktemp("readme") / "left")
    return left, tour.play(read(PAGES[0].read_text()), left, small=True, stand_ins=quick)


@pytest.mark.usefixtures("_served")
@pytest.mark.parametrize("page", named([page for page in PAGES if read(page.read_text()).consoles]))
def test_each_command_of_a_page_prints_what_the_page_shows(
    page: Path,
    furnished: Path,
    quick: StandIns,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    cases: Callable[[int, int], int],
) -> None:
    if page == PAGES[0]:
        printed = request.getfixturevalue("readme")[1]
    else:
        found = read(page.read_text())
        start = furnished if found.fresh else request.getfixturevalue("readme")[0]
        directory = shutil.copytree(start, tmp_path / "run")
        printed = tour.play(found, directory, small=True, slow=bool(cases(0, 1)), stand_ins=quick)
    different = tour.differences(page.read_text(), printed)
    assert not different, f"make readme puts in what is printed now:\n{different}"


@pytest.fixture
def _handlers() -> Iterator[None]:
    """Takes back the handlers of signals that a page's blocks set, which the tests behind this have not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_served", "_handlers")
@pytest.mark.parametrize(
    "page", named([page for page in PAGES if python(page) and page.name not in ELSEWHERE])
)
def test_the_python_blocks_of_a_page_run_one_after_another(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (tmp_path / "checkpoints").mkdir()
    marlin_ckpt.save({"weight": torch.ones(3)}, tmp_path / "checkpoints" / "model_0.pt")
    names: dict[str, object] = {}
    for block in python(page):
        exec(compile(block, page.name, "exec"), names)


def test_the_readme_is_short_and_has_what_a_newcomer_looks_for_in_this_order() -> None:
    text = PAGES[0].read_text()
    assert len(text.splitlines()) <= 150
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Install", "In your loop", "The command", "What is guaranteed", "How fast", "Read on",
    ]  # fmt: skip
    assert len(set(re.findall(r"^!\[.+\]\((.+)\)$", text, re.MULTILINE))) == 3


def test_the_figures_of_the_readme_and_those_beside_busy_cores_are_those_that_were_measured() -> None:
    assert figures.table() in PAGES[0].read_text()
    assert figures.busy_table() in (REPOSITORY / "docs" / "benchmarks.md").read_text()


def anchors(page: Path) -> set[str]:
    """What a link may have behind `#` on GitHub: headings in small letters, blanks as hyphens."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", named([*PAGES, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "SECURITY.md"]))
def test_each_link_of_a_page_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.match(r"[a-z]+:", link):
            continue
        generated = (
            "{include}" in target.read_text() if target.suffix == ".md" and target.is_file() else False
        )
        if not target.exists() or (anchor and not generated and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_the_change_log_has_a_section_for_what_is_not_released_and_the_version_is_semantic(
    repository: Path,
) -> None:
    text = (repository / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


@pytest.mark.parametrize("page", named(PAGES))
def test_the_make_targets_that_a_page_names_are_there(page: Path) -> None:
    targets = re.findall(r"(?:^|`|\()make ([\w-]+)", page.read_text(), re.MULTILINE)
    makefile = (REPOSITORY / "Makefile").read_text()
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
