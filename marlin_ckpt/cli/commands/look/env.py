"""`marlin-ckpt env`."""

from typing import Annotated

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Json, argument

EXAMPLE = "Example: marlin-ckpt env checkpoints; the output names no host, no user and no other path."


def env(
    directory: Annotated[
        str, argument("[DIR]", "Where you save; else the working directory.", on_disk=True)
    ] = ".",
    json: Json = False,
) -> None:
    """Print what a bug report needs.

    Versions, the machine, and of a directory its file system and what that can do, tried with two small
    files that are removed again. torch is not imported.
    """
    from marlin_ckpt.cli.views import environment as view
    from marlin_ckpt.operations import environment as operation
    from marlin_ckpt.storage.local.abilities import look_at

    found = operation.versions(), operation.machine(), directory, look_at(directory)
    output.result(json, lambda: view.document(*found), lambda: view.show(*found))
