"""When a file is written, and by which versions; for its manifest."""

import datetime
import platform

import torch

from marlin_ckpt.version import __version__


def now() -> str:
    """The time in UTC as the manifest has it, ISO 8601 to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def versions() -> dict[str, str]:
    """The versions of marlin-ckpt, torch and Python."""
    python = platform.python_version()
    return {"marlin_ckpt": __version__, "torch": str(torch.__version__), "python": python}
