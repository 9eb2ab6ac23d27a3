"""`marlin-ckpt latest`."""

from typing import Annotated

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Directory, Extension, Json, check_prefix, flag, option
from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import CheckpointNotFoundError

EXAMPLE = "Example: marlin-ckpt latest checkpoints; exits 4 when there is none."


def _newest_intact(directory: str, prefix: str, ext: str) -> str:
    from marlin_ckpt.cli.views import verdicts as view
    from marlin_ckpt.directory.newest import newest_intact

    return newest_intact(lambda: catalog.newest_first(directory, prefix, ext), view.passed_over)


def latest(
    directory: Directory,
    prefix: Annotated[str, option("--prefix", "P", "The start of names.", callback=check_prefix)] = "model",
    ext: Extension = "pt",
    intact: Annotated[bool, flag("--intact", "Exclude files that do not verify; stderr says why.")] = False,
    json: Json = False,
) -> None:
    """Print the path of the greatest index.

    Sub-directories are searched too.
    """
    path = (_newest_intact if intact else catalog.get_latest_file)(directory, prefix, ext)
    if not path:
        others = ", ".join(catalog.prefixes(directory, ext))
        hint = f"there are checkpoints with --prefix {others}" if others else ""
        raise CheckpointNotFoundError("no checkpoint found", directory, hint)
    output.result(json, lambda: {"path": path}, lambda: output.path(path))
