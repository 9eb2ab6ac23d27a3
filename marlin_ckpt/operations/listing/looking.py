"""Looks through a directory for what is to be listed."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.runs import beginning_with
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.formats.inspection import inspect, metric_names
from marlin_ckpt.formats.verdicts import Inspection, Status
from marlin_ckpt.keep import unknown_metric
from marlin_ckpt.operations.listing.marks import Marks, marks, usual_metrics
from marlin_ckpt.operations.listing.order import arrange, run_of
from marlin_ckpt.operations.listing.wanted import Wanted
from marlin_ckpt.storage import space
from marlin_ckpt.storage.space import Taken, together_bytes

_ANYTHING = "bin"  # the extension of old weights, and of data of all sorts


class Listing(NamedTuple):
    """What is to be listed of a directory.

    Attributes:
        directory: that was looked through.
        is_empty: whether nothing was found, whatever its run or age.
        found: what was found, in order.
        rows: those that are shown, in the order in which they are.
        known: the names of all metrics of what was found.
        metrics: the names of those that are shown.
        marks: what is marked.
        taken: what checkpoints take on the disk, by their paths, as far as their file system says it.
    """

    directory: str
    is_empty: bool
    found: Sequence[Inspection]
    rows: Sequence[Inspection]
    known: Sequence[str]
    metrics: Sequence[str]
    marks: Marks
    taken: Mapping[str, Taken]

    @property
    def shares(self) -> bool:
        """Whether any of them shares bytes with another file."""
        return any(one.shares for one in self.taken.values())

    @property
    def disk_bytes(self) -> int | None:
        """What all that was found takes together; None where that is not known of each."""
        if not self.found or len(self.taken) < len(self.found):
            return None
        return together_bytes(self.taken.values())


def look(wanted: Wanted, inspected: Callable[[Entry], Inspection] = inspect) -> Listing:
    """Looks through a directory.

    Args:
        wanted: what is to be listed.
        inspected: looks at one file.

    Raises:
        CheckpointNotFoundError: there is no such directory, or no such run.
        ArgumentsError: no checkpoint has a metric that is asked for.
        StorageError: the directory cannot be read.
    """
    directory, extension = wanted.directory, wanted.extension
    extensions = naming.EXTENSIONS if extension is None else (extension,)
    entries = catalog.listed(
        directory, prefix=wanted.prefix, extension=extensions, recursive=wanted.recursive
    )
    everything = [one for one in map(inspected, entries) if _is_listed(one, extension)]
    of_all = metric_names(everything)
    for name in (*wanted.asked, *([wanted.drawn] if wanted.drawn else ()), *wanted.metrics):
        if everything and name not in of_all:
            raise unknown_metric(name, of_all, directory)
    candidates = everything if wanted.run is None else _of_run(everything, wanted.run, directory)
    found = arrange(candidates, by=wanted.by, best=wanted.best, since=wanted.since, by_run=wanted.recursive)
    rows = _last(found, wanted)
    known = metric_names(found)
    shown = wanted.metrics or usual_metrics(known, wanted.asked)
    return Listing(
        directory, not everything, found, rows[::-1] if wanted.reverse else rows, known, shown,
        marks(candidates, shown, wanted.best), _taken(found),
    )  # fmt: skip


def _taken(found: Iterable[Inspection]) -> dict[str, Taken]:
    known = ((one.entry.path, space.taken(one.entry)) for one in found)
    return {path: one for path, one in known if one is not None}


def _is_listed(one: Inspection, extension: str | None) -> bool:
    """Whether a file is listed: not where only its extension says what it is, and anything may have that."""
    is_named = extension is not None or one.entry.name is not None or bool(one.entry.layout)
    is_unknown = one.status is Status.NOT_A_CHECKPOINT and not is_named
    return not (is_unknown and naming.has_extension(one.entry.item.name, _ANYTHING))


def _last(found: Sequence[Inspection], wanted: Wanted) -> list[Inspection]:
    """Those that are shown where there is a limit."""
    number = wanted.last
    if number is None:
        return [*found]
    runs = [[*files] for _, files in itertools.groupby(found, run_of)] if wanted.recursive else [[*found]]
    return [one for files in runs for one in (files[:number] if wanted.best else files[-number:])]


def _of_run(found: Sequence[Inspection], run: str, directory: str) -> list[Inspection]:
    """The files of the run with an id, or of the only one whose id begins so."""
    ids = sorted({run_id for one in found if (run_id := run_of(one)[1])})
    meant = beginning_with(run, ids)
    if len(meant) == 1:
        return [one for one in found if run_of(one)[1] == meant[0]]
    if meant:
        raise CheckpointNotFoundError(
            f"{len(meant)} runs have an id that begins with {run}", directory, f"they are {', '.join(meant)}"
        )
    hint = f"there {'are runs' if len(ids) > 1 else 'is run'} {', '.join(ids)}" if ids else ""
    raise CheckpointNotFoundError(f"no checkpoint of run {run} found", directory, hint)
