"""`marlin-ckpt latest`."""

from typing import Annotated

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Directory, Extension, Json, check_prefix, flag, option
from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError

EXAMPLE = "Example: marlin-ckpt latest checkpoints; exits 4 when there is none."


def _newest_intact(directory: str, prefix: str, ext: str) -> Entry | None:
    from marlin_ckpt.cli.views import verdicts as view
    from marlin_ckpt.directory.newest import newest_intact

    return newest_intact(lambda: newest_first(directory, prefix, ext), view.passed_over)


def _newest(directory: str, prefix: str, ext: str) -> Entry | None:
    return next(newest_first(directory, prefix, ext), None)


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
    search = _newest_intact if intact else _newest
    found = search(directory, prefix, ext)
    if found is None:
        others = ", ".join(catalog.prefixes(directory, ext))
        hint = f"there are checkpoints with --prefix {others}" if others else ""
        raise CheckpointNotFoundError("no checkpoint found", directory, hint)
    output.result(json, lambda: {"path": found.path}, lambda: output.path(found.path))
