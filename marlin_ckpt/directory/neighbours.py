"""The runs whose checkpoints lie in one directory: whose a checkpoint is, and which run saved last."""

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog, runs
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError, UnknownFormatError
from marlin_ckpt.formats.content.payload import other_content
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.verdicts import Inspection, Status
from marlin_ckpt.naming import FileName, Kind
from marlin_ckpt.storage.paths import make_directory


class Run(NamedTuple):
    """One run's checkpoints in a directory.

    Attributes:
        run_id: "" of all that have no manifest, which count as one run.
        entries: in the order of their index.
        saved: when it saved last, in seconds since 1970, and under which index.
    """

    run_id: str
    entries: tuple[Entry, ...]
    saved: tuple[float, int]


def runs_of(entries: Iterable[Entry]) -> list[Run]:
    """The runs that some checkpoints are of, the one that saved last first.

    Files that do not tell whose they are, since they are damaged, cannot be read or are no checkpoints, are
    left out.
    """
    groups: dict[str, list[Inspection]] = {}
    for one in filter(_tells, map(inspect, entries)):
        groups.setdefault(one.manifest.run_id if one.manifest else "", []).append(one)
    found = []
    for run_id, ours in groups.items():
        saved = max((one.written_s, one.entry.index or 0) for one in ours)
        found.append(Run(run_id, tuple(one.entry for one in ours), saved))
    return sorted(found, key=lambda run: run.saved, reverse=True)


def _tells(one: Inspection) -> bool:
    is_bad = one.status is None or one.status.is_bad or one.status is Status.NOT_A_CHECKPOINT
    if is_bad or isinstance(one.error, UnknownFormatError):
        return False
    if one.manifest is not None:
        return one.manifest.kind is Kind.CHECKPOINT
    with contextlib.suppress(StorageError, CheckpointNotFoundError):
        return not other_content(one.entry)
    return False


def is_of(entry: Entry, run_id: str) -> bool:
    """Whether a checkpoint says that it is of a run."""
    manifest = inspect(entry).manifest
    return manifest is not None and manifest.run_id == run_id


class Neighbours:
    """The other runs in the directories that one run saves into."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._others: dict[tuple[str, str], dict[str, str]] = {}

    def saving(self, directory: str, name: FileName, run_id: str, extension: str | None = None) -> None:
        """Notes, before a checkpoint is saved, that its directory holds those of other runs.

        The first save of a run looks for them; it warns once where its checkpoints would never be the newest.

        Args:
            directory: into which it is saved.
            name: of the checkpoint.
            run_id: of the run.
            extension: of the files of other runs; None: that of the name, which a folder's may lack.
        """
        if name.kind is not Kind.CHECKPOINT:
            return
        key = directory, run_id
        if key not in self._others:
            newest = self._look(directory, name, run_id, name.extension if extension is None else extension)
            self._others[key] = {run: entry.item.name for run, entry in newest.items()}
            if self._others[key] or runs.read(directory)[1]:
                self._note(directory, run_id)
            self._warn(name, newest)
        elif gone := [run for run, last in self._others[key].items() if last == str(name)]:
            for run in gone:  # its newest one is saved over
                del self._others[key][run]
            self._note(directory, run_id)

    def _look(self, directory: str, name: FileName, run_id: str, extension: str) -> dict[str, Entry]:
        """The newest checkpoint of each other run, beside the one that will be saved over.

        After a resume, when the newest is this run's and no other run has saved since, only its manifest is
        read: the small file names the others.
        """
        found: list[Entry] = []
        with contextlib.suppress(StorageError):  # a save needs none of this
            found = catalog.find(directory, prefix=name.prefix, extension=extension)
        left = [one for one in found if one.name and one.name.kind is Kind.CHECKPOINT and one.name != name]
        last, known = runs.read(directory)
        by_name = {one.item.name: one for one in left}
        is_known = last in ("", run_id) and all(newest in by_name for newest in known.values())
        if left and is_known and is_of(left[-1], run_id):
            return {run: by_name[newest] for run, newest in known.items()}
        return {run.run_id: run.entries[-1] for run in runs_of(left) if run.run_id != run_id}

    def _warn(self, name: FileName, newest: Mapping[str, Entry]) -> None:
        above = [
            (one.index or 0, one.path, run) for run, one in newest.items() if (one.index or 0) > name.index
        ]
        if above:
            _, path, run = max(above)
            self._logger.warning(
                "%s of another run (%s) stays the newest by its name: what is saved as %s is not what load() "
                "takes. Save into another directory, or remove that run.",
                path,
                runs.shown(run),
                name,
            )

    def _note(self, directory: str, run_id: str) -> None:
        with contextlib.suppress(StorageError):  # a save needs none of this
            make_directory(os.path.join(directory, naming.OWN_DIRECTORY))
            runs.write(directory, run_id, self._others[directory, run_id])
