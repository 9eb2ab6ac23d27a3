"""Writes each specimen and prints the digests by name: `python -m tests.support.digests`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tests.support.oracle import DIRECTORY, write
from tests.support.specimens import SPECIMENS


def digest(make: Callable[[], Any], path: str) -> str:
    torch.manual_seed(0)
    write(path, make())
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> dict[str, str]:
    warnings.simplefilter("ignore")
    # A module pickled whole holds its hooks' numbers, which the process counts up, and names that are one
    # object or two by what the process did before.
    specimens = {name: make for name, make in SPECIMENS.items() if name not in ("lazy module", "module")}
    specimens = {**specimens, "a set of strings": lambda: {str(number) for number in range(50)}}
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
        path = os.path.join(directory, "model_1.pt")
        return {name: digest(make, path) for name, make in specimens.items()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
