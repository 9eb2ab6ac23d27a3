"""Makes the manifest of a file that is about to be written."""

from __future__ import annotations

import datetime
import platform

import torch

from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import Kind
from marlin_ckpt.version import __version__


def now(kind: Kind, index: int, run_id: str, save_number: int, metrics: dict[str, float]) -> Manifest:
    """The manifest of a file that is written now, without its records; see `Manifest` for the arguments."""
    return Manifest(
        kind=kind,
        index=index,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        run_id=run_id,
        save_number=save_number,
        metrics=metrics,
        versions={
            "marlin_ckpt": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )
