"""`marlin-ckpt list`."""

from __future__ import annotations

import time

from marlin_ckpt.cli import render
from marlin_ckpt.cli.options import Directory, Extension, Json, Prefix, Recursive

EXAMPLE = "Example: marlin-ckpt list checkpoints --recursive"


def list_(
    directory: Directory,
    prefix: Prefix = None,
    ext: Extension = "pt",
    recursive: Recursive = False,
    json: Json = False,
) -> None:
    """List checkpoints in order of their index, with kind, size, age, metrics, and whether they are intact.

    The data itself is not read: intact is what the container's directory tells.
    """
    from marlin_ckpt.archive import inspection
    from marlin_ckpt.cli import documents
    from marlin_ckpt.directory import catalog

    found = catalog.find(directory, prefix=prefix, extension=ext, recursive=recursive)
    inspections = inspection.survey(found)
    if json:
        render.document(
            {"directory": directory, "checkpoints": [documents.inspection(one) for one in inspections]}
        )
    else:
        render.inspections(inspections, directory, now_s=time.time())
