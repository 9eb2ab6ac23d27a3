"""Makes the manifest of a file that is about to be written."""

from __future__ import annotations

import datetime
import platform

import torch

from marlin_ckpt.formats.manifest import Manifest, Parent
from marlin_ckpt.naming import Kind
from marlin_ckpt.version import __version__


def now(  # noqa: PLR0913, PLR0917 - the facts of a manifest
    kind: Kind,
    index: int,
    run_id: str,
    save_number: int,
    metrics: dict[str, float],
    parent: Parent | None,
) -> Manifest:
    """The manifest of a file that is written now, without its records; see `Manifest` for the arguments."""
    return Manifest(
        kind=kind,
        index=index,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        run_id=run_id,
        save_number=save_number,
        metrics=metrics,
        parent=parent,
        versions={
            "marlin_ckpt": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )
