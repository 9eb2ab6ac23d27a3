"""Where the source tree is, and what a user sees in a directory of checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

from marlin_ckpt.directory.own import OWN_DIRECTORY

REPOSITORY = Path(__file__).parents[2]
SUPPORT = REPOSITORY / "tests" / "support"  # modules and programs that tests run in other processes


def visible(directory: str | Path) -> list[str]:
    """The names of all files but the folder of our own, in order."""
    return sorted(name for name in os.listdir(directory) if name != OWN_DIRECTORY)


def contents(directory: str | Path) -> dict[str, bytes]:
    """The bytes of these files, by their names."""
    return {name: Path(directory, name).read_bytes() for name in visible(directory)}
