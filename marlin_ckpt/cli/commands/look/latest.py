"""`marlin-ckpt latest`."""

import os
from collections.abc import Callable, Iterable
from typing import Annotated

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Directory, Extension, Json, check_prefix, flag, option
from marlin_ckpt.cli.text import some
from marlin_ckpt.directory import runs
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.escaping import escape

EXAMPLE = "Example: marlin-ckpt latest checkpoints; exits 4 when there is none."


def _newest_intact(candidates: Callable[[], Iterable[Entry]]) -> Entry | None:
    from marlin_ckpt.cli.views import verdicts as view
    from marlin_ckpt.directory.newest import newest_intact

    return newest_intact(candidates, view.passed_over)


def _of_run(found: Iterable[Entry], run: str) -> Iterable[Entry]:
    from marlin_ckpt.directory.neighbours import is_of

    return (one for one in found if is_of(one, run))


def _tell_of_runs(found: Entry, directory: str) -> None:
    for place in dict.fromkeys((os.path.dirname(found.path), directory)):
        if ids := runs.known_runs(place):
            output.talk(f"several runs have saved in {escape(place)}: {some([*map(runs.shown, ids)])}")
            output.talk("hint: --run ID names the newest checkpoint of one run")
            return


def _options_for_others(directory: str, ext: str) -> Iterable[str]:
    import shlex

    from marlin_ckpt.directory.search import names_of_others

    for one, its_ext in names_of_others(directory, ext):
        yield f"--prefix {shlex.quote(one)}" + f" --ext {shlex.quote(its_ext)}" * (its_ext != ext)


def latest(
    directory: Directory,
    prefix: Annotated[str, option("--prefix", "P", "The start of names.", callback=check_prefix)] = "model",
    ext: Extension = "pt",
    run: Annotated[str | None, option("--run", "ID", "Only checkpoints of this run.")] = None,
    intact: Annotated[bool, flag("--intact", "Exclude files that do not verify; stderr says why.")] = False,
    json: Json = False,
) -> None:
    """Print the path of the newest checkpoint.

    That is the one with the greatest index in its name. Sub-directories are searched too.
    """

    def candidates() -> Iterable[Entry]:
        found = newest_first(directory, prefix, ext)
        return found if run is None else _of_run(found, run)

    found = _newest_intact(candidates) if intact else next(iter(candidates()), None)
    if found is None:
        of_run = "" if run is None else f" of run {run}"
        if damaged := intact and next(iter(candidates()), None):
            hint = f"marlin-ckpt salvage FILE --output OUT takes out what is left of one: {damaged.path}"
            raise CheckpointNotFoundError(f"no intact checkpoint{of_run} found", directory, hint)
        others = " or ".join(_options_for_others(directory, ext))
        hint = f"there are checkpoints with {others}" if others and run is None else ""
        raise CheckpointNotFoundError(f"no checkpoint{of_run} found", directory, hint)
    if run is None:
        _tell_of_runs(found, directory)
    output.result(json, lambda: {"path": found.path}, lambda: output.path(found.path))
