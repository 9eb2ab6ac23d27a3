"""What CONTRIBUTING, SECURITY and the architecture name is there, and the picture of the layers is whole."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from marlin_ckpt import __version__
from tests.support.campaign import PARTS
from tests.support.folders import REPOSITORY
from tools import layers

PAGES = ["CONTRIBUTING.md", "SECURITY.md", "docs/explanation/architecture.md"]
PACKAGE = REPOSITORY / "marlin_ckpt"
SVG = "{http://www.w3.org/2000/svg}"


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text()


def place_of(name: str) -> Path:
    """What a page means by a path: one from the root of the repository, or from that of the package."""
    found = REPOSITORY / name
    return found if found.exists() else PACKAGE / name


@pytest.mark.parametrize("page", PAGES)
def test_each_file_and_folder_that_a_page_names_is_there(page):
    named = re.findall(r"`([\w./-]+(?:\.py|\.md|\.txt|\.toml|/))`", text_of(page))
    assert len(named) > 3
    assert [name for name in named if not place_of(name).exists() and not name.startswith("build/")] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_name_that_a_page_places_in_a_file_is_in_it(page):
    placed = re.findall(
        r"`(\w+)`\s+(?:and the guide )?(?:\(|in |of )`([\w./]+\.py)`", re.sub(r"\n *", " ", text_of(page))
    )
    assert [(name, file) for name, file in placed if name not in place_of(file).read_text()] == []


def test_the_make_targets_that_the_pages_name_are_there_and_help_lists_them():
    named = {
        one for page in PAGES for one in re.findall(r"(?:`|^)make ([\w-]+)", text_of(page), re.MULTILINE)
    }
    printed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    listed = {line.partition(":")[0] for line in printed.splitlines()}
    phony = set(re.search(r"^\.PHONY: (.*)$", text_of("Makefile"), re.MULTILINE)[1].split())
    assert named <= listed
    assert listed == phony


def test_the_parts_of_the_campaign_that_the_pages_name_are_there():
    named = {one for page in PAGES for one in re.findall(r"PART=(\w+)", text_of(page))}
    assert named
    assert named <= PARTS.keys()


def test_the_picture_has_every_layer_from_the_top_down_and_each_text_in_its_box():
    picture = ET.fromstring(layers.picture())
    width, height = float(picture.get("width")), float(picture.get("height"))
    boxes = [
        [float(one.get(key)) for key in ("x", "y", "width", "height")] for one in picture.iter(f"{SVG}rect")
    ]
    texts = [one for one in picture.iter(f"{SVG}text") if one.get("class") is None]
    parts = [part for layer in layers.layers() for part in layer]
    assert [one.text for one in texts] == [part.label for part in parts]
    assert all(part.file.is_file() for part in parts)
    for (left, top, wide, high), text in zip(boxes, texts, strict=True):
        assert left <= float(text.get("x"))
        assert top <= float(text.get("y")) <= top + high
        assert left + wide <= width
        assert top + high <= height
    assert [box[1] for box in boxes] == sorted(box[1] for box in boxes)


def test_the_picture_marks_the_folders_that_alone_may_import_torch():
    marked = {
        part.name: part.uses for layer in layers.layers() for part in layer if "torch" in "".join(part.uses)
    }
    assert marked == {
        "training": ("torch",),
        "checkpointer": ("torch",),
        "saving": ("torch",),
        "loading": ("torch",),
        "distributed": ("torch",),
        "formats": ("torch in torch/ alone",),
    }


def test_the_list_of_packages_has_each_with_the_first_sentence_of_its_guide():
    listed = dict(re.findall(r"^ *- `([\w/]+)/`: (.+)$", layers.guide(), re.MULTILINE))
    folders = {file.parent.relative_to(PACKAGE).as_posix() for file in PACKAGE.glob("*/__init__.py")}
    folders |= {file.parent.relative_to(PACKAGE).as_posix() for file in PACKAGE.glob("*/*/__init__.py")}
    assert listed.keys() == folders
    assert listed["saving"].startswith("Saves states to files")


def test_the_parts_that_the_evening_is_spent_with_are_short(repository):
    tour = re.findall(
        r"^\d+\. `([\w./]+)`: ",
        text_of("docs/explanation/architecture.md").partition("## One evening")[2],
        re.MULTILINE,
    )
    assert len(tour) >= 12
    assert all(len((repository / one).read_text().splitlines()) <= 300 for one in tour)


def test_the_change_log_is_kept_as_it_says():
    text = text_of("CHANGELOG.md")
    releases = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    assert releases[:2] == [("Unreleased", ""), (__version__, releases[1][1])]
    assert all(date for _, date in releases[1:])
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert [line for line in text.splitlines() if len(line) > 120] == []
