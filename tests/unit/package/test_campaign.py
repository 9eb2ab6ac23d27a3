"""Each test whose size depends on the campaign belongs to one part of it, and the parts are documented."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from tests.support.campaign import PARTS, TESTS, part_of


def takes_cases(path: Path) -> bool:
    """Whether a test or a fixture of this file asks how many cases it is to try."""
    functions = [one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.FunctionDef)]
    return any(argument.arg == "cases" for one in functions for argument in one.args.args)


def test_each_file_whose_tests_have_two_sizes_and_each_of_adversity_is_in_one_part_of_the_campaign():
    files = [path for path in TESTS.rglob("test_*.py") if takes_cases(path)]
    expected = {*files, *(TESTS / "adversity").glob("test_*.py")}
    named = Counter(name for names in PARTS.values() for name in names)
    assert {path.relative_to(TESTS).as_posix() for path in expected} <= named.keys()
    assert set(named.values()) == {1}
    assert [name for name in named if not (TESTS / name).is_file()] == []


def test_the_parts_of_the_campaign_are_those_that_are_documented(repository):
    text = re.sub(r"\n(?:# )?", " ", (repository / "Makefile").read_text())
    (listed,) = re.findall(r"PART=files runs one part: ([a-z, ]+)\.", text)
    assert listed.split(", ") == [*PARTS]


def test_a_file_belongs_to_the_part_that_names_it_and_others_to_none():
    assert part_of(TESTS / "adversity" / "test_power.py") == "power"
    assert part_of(Path(__file__)) is None
