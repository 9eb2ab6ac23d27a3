"""Where the source tree is, what a user sees in a directory of checkpoints, and folders of great depth."""

from __future__ import annotations

import os
from pathlib import Path

from marlin_ckpt.naming import OWN_DIRECTORY

REPOSITORY = Path(__file__).parents[2]
SUPPORT = REPOSITORY / "tests" / "support"  # modules and programs that tests run in other processes


def visible(directory: str | Path) -> list[str]:
    """The names of all files but the folder of our own, in order."""
    return sorted(name for name in os.listdir(directory) if name != OWN_DIRECTORY)


def contents(directory: str | Path) -> dict[str, bytes]:
    """The bytes of these files, by their names."""
    return {name: Path(directory, name).read_bytes() for name in visible(directory)}


def make_deep(directory: str | Path, name: str, depth: int, file: str) -> None:
    """Makes folders in folders and a file in the innermost one, whose path may be too long for the system."""
    here = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
