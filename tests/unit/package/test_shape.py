"""The shape of the package: few modules in a folder, short ones, guides to both, and layers by folder."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from tests.support.folders import REPOSITORY

PACKAGE = REPOSITORY / "marlin_ckpt"
MOST_MODULES, MOST_LINES = 15, 300
MOST_AT_THE_TOP = 18  # where the values lie beside the layers


def modules_of(folder: Path) -> list[str]:
    """The names of a folder's own modules."""
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("__"))


def packages_of(folder: Path) -> list[str]:
    """The names of the packages in a folder."""
    return sorted(file.parent.name for file in folder.glob("*/__init__.py"))


FOLDERS = sorted(file.parent for file in PACKAGE.rglob("__init__.py"))


def name_of(folder: Path) -> str:
    return ".".join(folder.relative_to(REPOSITORY).parts)


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_has_few_modules(folder):
    assert len(modules_of(folder)) <= (MOST_AT_THE_TOP if folder == PACKAGE else MOST_MODULES)


def test_no_module_of_the_package_and_no_file_of_tests_is_long():
    files = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "tests").rglob("*.py")]
    lengths = {str(file.relative_to(REPOSITORY)): len(file.read_text().splitlines()) for file in files}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_package_names_each_of_its_modules_and_packages_in_its_docstring(folder):
    guide = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    named = {word.strip("`.,:;()/") for word in guide.split()}
    assert {*modules_of(folder), *packages_of(folder)} - named == set()


def test_every_folder_with_modules_is_a_package():
    assert {file.parent for file in PACKAGE.rglob("*.py")} == {*FOLDERS}


def test_the_contracts_between_layers_name_folders_and_the_modules_of_the_top_alone():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    named = set()
    for contract in settings["contracts"]:
        sides = [contract.get("layers", []), contract.get("source_modules", []), contract.get("modules", [])]
        sides.append([side for one in contract.get("ignore_imports", []) for side in one.split(" -> ")])
        named |= {name.strip() for side in sides for entry in side for name in entry.split("|")}
    ours = {name.removesuffix(".**").removesuffix(".*") for name in named if name.startswith("marlin_ckpt")}
    at_the_top = {f"marlin_ckpt.{module}" for module in [*modules_of(PACKAGE), "__main__"]}
    folders = {name_of(folder) for folder in FOLDERS}
    assert ours - at_the_top - folders == set()


def test_a_folder_of_tests_mirrors_each_package_that_it_is_named_after():
    tested = {folder.name for folder in (REPOSITORY / "tests" / "unit").iterdir() if any(folder.glob("*.py"))}
    assert tested - {"package"} <= {*packages_of(PACKAGE)}
