"""The versions that a checkpoint is written by."""

import platform

import torch

from marlin_ckpt.version import __version__


def versions() -> dict[str, str]:
    """The versions of marlin-ckpt, torch and Python."""
    python = platform.python_version()
    return {"marlin_ckpt": __version__, "torch": str(torch.__version__), "python": python}
