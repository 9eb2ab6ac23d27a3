"""`marlin-ckpt latest`."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import AnyExtension, Directory, Json, check_prefix, flag, option
from marlin_ckpt.cli.text import some
from marlin_ckpt.directory import catalog, runs
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.escaping import escape, get_logger

EXAMPLE = "Example: marlin-ckpt latest checkpoints; exits 4 when there is none."


def _newest_first(directory: str, prefix: str | None, ext: str | None) -> Iterator[Entry]:
    found = newest_first(directory, prefix or "model", ext or "pt", foreign=True)
    first = next(found, None)
    if first is not None:
        yield first
        yield from found
    elif prefix is None and ext is None:
        from marlin_ckpt.directory.others.kinds import newest_of_any

        yield from newest_of_any(directory, get_logger(__name__), only_others=True)
    elif ext is None and (itself := catalog.entry(directory)) and itself.name:
        yield from [itself] * (itself.name.prefix == prefix)


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


def _tell_of_files_beside(found: Entry) -> None:
    """Says where the tool that wrote a folder would go on from another one."""
    from marlin_ckpt.formats import layouts

    if not layouts.is_foreign(found):
        return
    from marlin_ckpt.formats.layouts.beside import said_beside
    from marlin_ckpt.storage.paths import is_folder, open_store

    place, last = os.path.split(found.path)
    with open_store(place or os.curdir) as store:
        said = said_beside(store, last)
    for file, names in said.items():
        if last not in names:
            is_there = is_folder(os.path.join(place, names[0]))
            what = "which is not the newest" if is_there else "which is not there"
            output.talk(f"{escape(os.path.join(place, file))} names {escape(names[0])}, {what}")


def _hint_of_damaged(found: Entry, directory: str) -> str:
    from marlin_ckpt.formats import layouts

    if layouts.is_foreign(found):
        return (
            f"`marlin-ckpt latest {directory}` names the newest; no folder of another tool proves its bytes"
        )
    return f"marlin-ckpt salvage FILE --output OUT takes out what is left of one: {found.path}"


def latest(
    directory: Directory,
    prefix: Annotated[
        str | None, option("--prefix", "P", "The start of names; else model.", callback=check_prefix)
    ] = None,
    ext: AnyExtension = None,
    run: Annotated[str | None, option("--run", "ID", "Only checkpoints of this run.")] = None,
    intact: Annotated[bool, flag("--intact", "Exclude files that do not verify; stderr says why.")] = False,
    json: Json = False,
) -> None:
    """Print the path of the newest checkpoint.

    That is the one with the greatest index in its name. Sub-directories are searched too. Where there is none
    of ours, and neither --prefix nor --ext is given, it is the newest file or folder of another tool, by the
    step and epoch in the names: epoch=2-step=6.ckpt, checkpoint-500. Of a directory that is itself one
    checkpoint it is that.
    """

    def candidates() -> Iterable[Entry]:
        found = _newest_first(directory, prefix, ext)
        return found if run is None else _of_run(found, run)

    found = _newest_intact(candidates) if intact else next(iter(candidates()), None)
    if found is None:
        of_run = "" if run is None else f" of run {run}"
        if damaged := intact and next(iter(candidates()), None):
            hint = _hint_of_damaged(damaged, directory)
            raise CheckpointNotFoundError(f"no intact checkpoint{of_run} found", directory, hint)
        from marlin_ckpt.directory.others import left_out

        hint = left_out.hint_at_prefixes(directory, ext or "pt") if run is None else ""
        raise CheckpointNotFoundError(f"no checkpoint{of_run} found", directory, hint)
    if run is None:
        _tell_of_runs(found, directory)
    _tell_of_files_beside(found)
    output.result(json, lambda: {"path": found.path}, lambda: output.path(found.path))
