"""A wheel built from the tree, installed into an empty directory and used from outside the tree."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from build.env import DefaultIsolatedEnv

from marlin_ckpt import __version__
from tests.support.distributions import Distributions, build_from, copy_of_the_tree
from tests.support.folders import REPOSITORY, visible


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, timeout=300, **options
    )
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def twice(tmp_path_factory) -> list[Distributions]:
    """What is published, built from two copies of the tree with other times and permissions."""
    made = []
    with pytest.MonkeyPatch.context() as patch, DefaultIsolatedEnv() as environment:
        patch.setenv("SOURCE_DATE_EPOCH", "1795737600")
        for number in range(2):
            folder = tmp_path_factory.mktemp("built")
            source = copy_of_the_tree(folder / f"marlin-ckpt-{number}")
            for file in source.rglob("*.*") if number else ():
                os.utime(file, (1, 1))
                file.chmod(file.stat().st_mode & 0o700)  # as another umask leaves them
            made.append(build_from(source, environment, folder))
    return made


@pytest.fixture(scope="module")
def wheel(twice) -> Path:
    return twice[0].wheel


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An empty environment with the wheel in it; the dependencies are those of the running one."""
    directory = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(directory, with_pip=False, symlinks=True)
    scheme = {"base": str(directory), "platbase": str(directory)}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    scripts = Path(sysconfig.get_path("scripts", "venv", scheme))
    install = [
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        "--no-warn-script-location",
    ]
    run(sys.executable, "-m", "pip", "--python", scripts / "python", "install", *install, wheel)
    # A plain path, not addsitedir: .pth files over there would bring an editable install of the tree in.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return scripts


@pytest.fixture
def outside(tmp_path) -> dict:
    """How a user calls the command: from a directory of his own, with nothing that points to the tree."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {"cwd": tmp_path, "env": {**inherited, "PYTHONDONTWRITEBYTECODE": "1"}}


def test_what_is_built_twice_from_one_tree_has_the_same_bytes(twice):
    first, again = twice
    assert [one.name for one in first] == [one.name for one in again]
    assert first.sdist.read_bytes() == again.sdist.read_bytes()
    assert first.wheel.read_bytes() == again.wheel.read_bytes()


def test_what_is_published_passes_the_check_of_the_index(twice):
    run(sys.executable, "-m", "twine", "check", "--strict", *twice[0])


def tracked() -> set[str]:
    """The files of a clone; where git does not know them, as in an unpacked sdist, all that there are."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    named = set(listed.stdout.split("\n")) - {""}
    return {one for one in named if (REPOSITORY / one).is_file()}


def test_the_sdist_has_every_file_of_a_clone_and_nothing_that_was_made_of_them(twice):
    with tarfile.open(twice[0].sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "tests/conftest.py", "docs/conf.py", "PKG-INFO"} <= names
    assert [name for name in names if "__pycache__" in name or "_generated" in name] == []
    if files := tracked():
        assert names - {"PKG-INFO"} == files


def test_the_wheel_has_the_whole_package_and_nothing_else(wheel, repository):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = repository / "marlin_ckpt"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {str(path.relative_to(repository)) for path in files}
    assert "marlin_ckpt/py.typed" in names


def test_the_wheel_has_the_entry_point_the_licence_and_honest_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    assert "marlin-ckpt = marlin_ckpt.__main__:main" in entry_points.splitlines()
    assert (metadata["Name"], metadata["Version"]) == ("marlin-ckpt", __version__)
    assert metadata["Requires-Python"] == ">=3.11"
    required = {line.replace(" ", "") for line in metadata.get_all("Requires-Dist")}
    assert "torch>=2.10" in required
    assert {"typer<0.29,>=0.26", "typer>=0.26,<0.29"} & required
    assert "MIT License" in licence


def test_the_installed_command_is_that_of_the_wheel(environment, outside, repository):
    script = "import marlin_ckpt; print(marlin_ckpt.__file__)"
    found = Path(run(environment / "python", "-c", script, **outside).stdout.strip())
    assert not found.is_relative_to(repository)
    assert found.is_relative_to(environment.parent)
    assert run(environment / "marlin-ckpt", "--version", **outside).stdout == f"marlin-ckpt {__version__}\n"


def test_the_installed_command_lists_finds_and_cleans(
    environment, outside, make_checkpointer, make_checkpoint
):
    path = make_checkpointer().save(make_checkpoint(loss=0.5), 3)
    command = environment / "marlin-ckpt"
    (listed,) = json.loads(run(command, "list", "checkpoints", "--json", **outside).stdout)["checkpoints"]
    assert (listed["index"], listed["complete"], listed["metrics"]) == (3, True, {"loss": 0.5})
    assert run(command, "latest", "checkpoints", **outside).stdout == "checkpoints/model_3.pt\n"
    assert json.loads(run(command, "clean", "checkpoints", "--json", **outside).stdout)["bytes_freed"] > 0
    assert not os.path.exists(path)


def test_the_installed_command_trains(environment, outside, repository, tmp_path):
    shutil.copy(repository / "configs/ci.yaml", tmp_path)
    run(environment / "marlin-ckpt", "train", "--config", "ci.yaml", "--quiet", **outside)
    assert visible(tmp_path / "checkpoints/ci") == ["model_0.pt", "model_1.pt", "model_2.pt"]


_PROGRAM = """
import marlin_ckpt
from marlin_ckpt import CheckpointDirectory, SaveReport

report = marlin_ckpt.save({"epoch": 1}, "last.pt")
reveal_type(report)
with CheckpointDirectory("run", keep=3) as checkpoints:
    reveal_type(checkpoints.latest())
    checkpoints.save({"epoch": 1}, "one")
wrong: int = report.path
"""


def test_a_users_type_checker_sees_the_types_of_the_wheel(environment, outside, tmp_path):
    (tmp_path / "program.py").write_text(_PROGRAM)
    # torch itself is read by another test, which takes ten times as long.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-torch.*,numpy.*]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--python-executable", environment / "python", "program.py"]
    ended = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, **outside)
    revealed = re.findall(r'Revealed type is "(.*)"', ended.stdout)
    assert revealed == [
        "marlin_ckpt.reports.SaveReport",
        "marlin_ckpt.formats.verdicts.CheckpointInfo | None",
    ]
    assert re.findall(r"error: .*\[([\w-]+)\]$", ended.stdout, re.MULTILINE) == ["arg-type", "assignment"]
