"""Scripts that do things to processes of their own, and print what came of it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

from tests.support import warm
from tests.support.folders import REPOSITORY, SUPPORT


def found_by(script: str, directory: str | None = None, **times: int) -> dict[str, Any]:
    """What a script found, which does something so many times of each kind; see async_child.py."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        arguments = [f"{kind}={count}" for kind, count in times.items()]
        ended = warm.run(
            [sys.executable, str(SUPPORT / script), place, *arguments],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, timeout=1500, is_torn_down=True,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found
