"""`marlin-ckpt log`."""

import contextlib
import errno
import os
import shlex
from collections.abc import Iterator
from typing import Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Directory, Json, flag, option, since
from marlin_ckpt.cli.text import some
from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError, StorageError

_MOST_LOOKED_AT = 20  # folders of a directory, for a hint
EXAMPLE = "Example: marlin-ckpt log checkpoints --since 12h"


def log(
    directory: Directory,
    run: Annotated[
        str | None, option("--run", "ID", "Only this run; the beginning of its id is enough.")
    ] = None,
    since: Annotated[float | None, since("events")] = None,
    last: Annotated[int | None, option("-n", "N", "Only the last N events.", min=1)] = None,
    reverse: Annotated[bool, flag("--reverse", "The newest event first.")] = False,
    brief: Annotated[bool, flag("--brief", "Without metrics, saves and removals.")] = False,
    json: Json = False,
) -> None:
    """Print what happened in a directory's runs.

    A line for each event, the newest last: starts, what was resumed from and what was passed over, metrics,
    saves with what they cost, failed saves, removals with their reasons, signals, ends and kills. The history
    outlives the checkpoints that retention removes. Times are local. In --json they are in UTC, and runs has
    each start of each run.
    """
    from marlin_ckpt.cli.views import history as view
    from marlin_ckpt.directory import lease
    from marlin_ckpt.directory.history import reading
    from marlin_ckpt.operations.history import lineage, rows
    from marlin_ckpt.storage.paths import existing, open_store

    with open_store(directory):
        past = reading.read(directory)
    view.tell_of_unread(past)
    if not past.events:
        raise CheckpointNotFoundError("no history found", directory, _hint_of_none(directory))
    runs = lineage.runs_of(past.events, lease.holder(directory))
    run_ids = [one.run_id for one in runs]
    run_id = None if run is None else _meant(run, run_ids, directory)
    found = rows.choose(
        rows.rows_of(past.events, existing(directory)),
        run_id=run_id,
        brief=brief,
        since_s=since,
        last=last,
    )
    if reverse:
        found.reverse()
    runs = [one for one in runs if run_id in (None, one.run_id)]
    if json:
        output.document(view.document(directory, past, found, runs), many="events")
        return
    if found:
        view.show(found, [one.run_id for one in runs])
        view.tell_of_open(runs)
    else:
        output.talk("no such events")


def _hint_of_none(directory: str) -> str:
    from marlin_ckpt.directory.history import journal
    from marlin_ckpt.storage.paths import open_store

    with _passing_over_all_but_a_file(), open_store(directory) as store:
        found = store.list()
        if not (found.objects or found.folders or found.links):
            return "it is empty"
        folders = (os.path.join(directory, one) for one in sorted(found.folders)[:_MOST_LOOKED_AT])
        if below := next(filter(journal.exists, folders), None):
            return f"marlin-ckpt log {shlex.quote(below)} prints the history of a directory in it"
    shows = f"marlin-ckpt list {shlex.quote(directory)} shows the checkpoints"
    return f"version 0.1 and other tools keep none; {shows}"


@contextlib.contextmanager
def _passing_over_all_but_a_file() -> Iterator[None]:
    """A hint fails for nothing but an object in the place of the directory, which a store finds out here."""
    try:
        yield
    except MarlinError as error:
        if isinstance(error, StorageError) and error.errno == errno.ENOTDIR:
            raise


def _meant(text: str, run_ids: list[str], directory: str) -> str:
    from marlin_ckpt.directory.runs import beginning_with

    found = beginning_with(text, run_ids)
    if not found:
        hint = f"it has {'runs' if len(run_ids) > 1 else 'run'} {some(run_ids)}"
        raise CheckpointNotFoundError(f"no history of run {text} found", directory, hint)
    if len(found) > 1:
        raise typer.BadParameter(
            f"{text!r} is the beginning of several ids: {some(found)}", param_hint="--run"
        )
    return found[0]
