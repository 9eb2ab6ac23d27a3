"""The checkpoints of one prefix in a directory, in order."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.retention.decide import best_first
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.inspection import inspect, metric_names
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.keep import BestArguments
from marlin_ckpt.naming import Kind

_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class Series:
    """The checkpoints of one prefix in one directory, as they are whenever they are asked for.

    Attributes:
        directory: its path; where there is none, there are no checkpoints.
        prefix: what their names start with.
        extension: of files, without its dot; folders count whatever theirs is.
        run_id: only checkpoints of this run; None: of all.
    """

    directory: str
    prefix: str
    extension: str
    run_id: str | None = None

    def inspections(self) -> Iterator[Inspection]:
        """What a look at each finds, in the order of their index; of equal indices in that of their time."""
        return filter(self._holds, map(inspect, self._entries()))

    def newest(self) -> Inspection | None:
        """What a look at the one with the greatest index finds, be it damaged; None where there is none."""
        return next(filter(self._holds, map(inspect, reversed(self._entries()))), None)

    def newest_first(self) -> Iterable[Entry]:
        """The greatest index first, of equal ones that which was changed last, for a search to try.

        What is too damaged to say of which run it is, is among those of each, to be passed over with the
        reason.
        """
        found = reversed(self._entries())
        if self.run_id is None:
            return found
        return [one.entry for one in map(inspect, found) if self._holds(one) or _is_silent(one)]

    def best_first(self, rule: BestArguments) -> Iterable[Entry]:
        """The best by a metric first, of equal ones the newest; all that have a finite value of it.

        Before them comes what is too damaged to say its metrics, to be passed over with the reason.
        """
        found = [inspect(one) for one in reversed(self._entries())]
        silent = [one.entry for one in found if _is_silent(one)]
        measured = [(one.entry, one.manifest.metrics) for one in found if one.manifest and self._holds(one)]
        return silent + best_first(measured, rule)

    def metrics(self) -> list[str]:
        """The names of the metrics that any checkpoint has, sorted."""
        return metric_names(self.inspections())

    def with_index(self, index: int) -> Entry:
        """The checkpoint of an index.

        Raises:
            CheckpointNotFoundError: there is none; the hint names the newest.
            StorageError: the directory cannot be read.
        """
        entries = list(self.newest_first())
        if found := next((one for one in entries if one.index == index), None):
            return found
        some = ", ".join(str(one.index) for one in entries[:_MOST_NAMES])
        hint = f"there are {some}" if some else f"there is no checkpoint of prefix {self.prefix}"
        hint += ", ..." * (len(entries) > _MOST_NAMES)
        raise CheckpointNotFoundError(f"no checkpoint of index {index}", self.directory, hint)

    def _holds(self, found: Inspection) -> bool:
        return self.run_id is None or (found.manifest is not None and found.manifest.run_id == self.run_id)

    def _entries(self) -> list[Entry]:
        found: list[Entry] = []
        with contextlib.suppress(CheckpointNotFoundError):
            found = catalog.find(self.directory, prefix=self.prefix, extension=self.extension)
        by_index: dict[int, list[Entry]] = {}
        for one in found:
            if one.name and one.name.kind is Kind.CHECKPOINT and not layouts.is_foreign(one):
                by_index.setdefault(one.name.index, []).append(one)
        return [one for index in sorted(by_index) for one in catalog.by_age(by_index[index])]


def _is_silent(found: Inspection) -> bool:
    """Whether a manifest that may be there cannot be read; a whole file by another tool has none."""
    return found.manifest is None and (found.error is not None or found.status is None)
