"""The sdist and the wheel, built as `python -m build` does: the wheel from what the sdist has in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

from build import ProjectBuilder
from build.env import DefaultIsolatedEnv

from tests.support.folders import REPOSITORY

# What a clone of the repository does not have.
_IGNORED = shutil.ignore_patterns(
    ".git",
    ".venv*",
    ".*_cache",
    "__pycache__",
    ".hypothesis",
    "_generated",
    "checkpoints",
    "outputs",
    "dist",
    "build",
    "shared",
    "*.egg-info",
)


class Distributions(NamedTuple):
    """What is published of one version."""

    sdist: Path
    wheel: Path


def copy_of_the_tree(to: Path) -> Path:
    """The tree as a clone has it, so that nothing is left in this one."""
    shutil.copytree(REPOSITORY, to, ignore=_IGNORED, copy_function=shutil.copy)
    return to


def build_from(source: Path, environment: DefaultIsolatedEnv, to: Path) -> Distributions:
    """Builds the sdist of a tree, and of that the wheel, in an environment that is given what that needs."""
    environment.install(_builder(source, environment).build_system_requires)
    sdist = _builder(source, environment).build("sdist", to)
    with tarfile.open(sdist) as archive:
        archive.extractall(to / "unpacked", filter="data")
    (unpacked,) = (to / "unpacked").iterdir()
    return Distributions(Path(sdist), Path(_builder(unpacked, environment).build("wheel", to)))


def _builder(source: Path, environment: DefaultIsolatedEnv) -> ProjectBuilder:
    def quietly(command: list[str], cwd: str | None = None, extra: dict[str, str] | None = None) -> None:
        whole = {**os.environ, **(extra or {})}
        done = subprocess.run(command, cwd=cwd, env=whole, check=False, capture_output=True, text=True)
        sys.stderr.write(done.stderr if done.returncode else "")
        done.check_returncode()

    return ProjectBuilder.from_isolated_env(environment, source, runner=quietly)
