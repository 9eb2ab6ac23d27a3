"""What the saves of one run write into the histories of the directories that they go to."""

import contextlib
import copy
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from marlin_ckpt.directory.history.events import Event, Removed, Resumed, Saved, SaveFailed, Started
from marlin_ckpt.directory.history.recorder import History
from marlin_ckpt.directory.history.removals import index_of, removed
from marlin_ckpt.directory.removing import Removal
from marlin_ckpt.directory.transaction import Transaction
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.versions import versions
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving import about
from marlin_ckpt.saving.job import Job
from marlin_ckpt.saving.lineage import Lineage
from marlin_ckpt.storage.paths import absolute


class Recording:
    """The history of one run; see `History` for what happens where it cannot be written.

    Attributes:
        by: what saves, as `Started` has it.
        lineage: of the run.
        step: global steps that were done when the save under way began; -1 where that is not known.
        is_silent: whether nothing is written, since another rank of the run writes it.
    """

    def __init__(self, by: str, lineage: Lineage | None = None) -> None:
        """Takes the run.

        Args:
            by: what saves, as `Started` has it. "": nothing is written before `start` is called.
            lineage: of the run; None: of a new one.
        """
        self.step = -1
        self.is_silent = False
        self._is_on = bool(by)
        self.lineage, self.by = lineage or Lineage(), by
        self._histories: dict[str, History] = {}
        self._begun: set[tuple[str, str]] = set()
        self._resumed: list[tuple[str, Resumed]] = []

    def of(self, directory: PathText) -> History:
        """The history of a directory."""
        path = absolute(directory)
        return self._histories.setdefault(path, History(path))

    def write(self, directory: PathText, *events: Event, is_durable: bool = False) -> None:
        """Writes events of this run into the history of a directory."""
        if not self._is_on or self.is_silent:
            return
        named = (dataclasses.replace(one, run_id=self.lineage.run_id) for one in events)
        self.of(directory).write(*named, is_durable=is_durable)

    def note(self, directory: PathText, *events: Event) -> None:
        """Keeps events of this run in memory until something is written."""
        if self._is_on and not self.is_silent:
            self.of(directory).note(*(dataclasses.replace(one, run_id=self.lineage.run_id) for one in events))

    def begin(self, directory: PathText, args: Any = None) -> None:
        """Writes that the run begins to save in a directory, and what it resumed from; once for a directory.

        Args:
            directory: which is there.
            args: the checkpointer's; None: there is none.
        """
        if not self._is_on or self.is_silent:
            return
        if (absolute(directory), self.lineage.run_id) not in self._begun:
            config = None if args is None else {"checkpointer": about.lasting(args)}
            keep = about.rules(getattr(args, "keep", None))
            self.start(directory, Started(by=self.by, config_sha256=about.digest(config), keep=keep))
        elif self._resumed:
            self.write(directory, *self._taken_up(directory))

    def start(self, directory: PathText, started: Started) -> None:
        """Writes that the run begins, and what it resumed from.

        Args:
            directory: which is there.
            started: without the versions and the commit.
        """
        if self.is_silent:
            return
        self._is_on = True
        self._begun.add((absolute(directory), self.lineage.run_id))
        started = dataclasses.replace(started, versions=versions(), git_commit=about.commit())
        self.write(directory, started, *self._taken_up(directory))

    def continues(
        self, path: str, manifest: Manifest | None, passed_over: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Takes a loaded checkpoint for the run's last one.

        That is written when the run begins to save, since a look at a file is no resume.

        Args:
            path: of the checkpoint.
            manifest: of the checkpoint, if it has one.
            passed_over: the paths of newer ones that were not taken, with the reasons.
        """
        self.lineage.continues(manifest, path)
        index = manifest.index if manifest else index_of(path)
        event = Resumed(
            index=max(index, 0),
            parent_run_id=manifest.run_id if manifest else "",
            parent_save_number=manifest.save_number if manifest else 0,
            passed_over=dict(passed_over),
        )
        self._resumed = [(absolute(path), event)]

    def passes_over(self, others: Mapping[str, str]) -> None:
        """Notes, by their paths, more checkpoints that were passed over for the one that was loaded."""
        self._resumed = [
            (path, dataclasses.replace(event, passed_over={**others, **event.passed_over}))
            for path, event in self._resumed
        ]

    def removed(self, directory: PathText, removals: Iterable[Removal], by: str) -> None:
        """Writes that checkpoints were removed.

        Args:
            directory: of the history.
            removals: what has gone.
            by: what removed it, as `Removed` has it.
        """
        if events := [removed(one, by) for one in removals]:
            self.write(directory, *events)

    def dropped(self, gone: Iterable[tuple[str, int]], why: str, directory: PathText = "") -> None:
        """Writes that the tool that saves has removed checkpoints.

        Args:
            gone: their paths and sizes in bytes.
            why: in words.
            directory: of the history; "": the one that each was in.
        """
        for path, size in gone:
            place = directory or os.path.dirname(path)
            name, index = _named(path, place), index_of(path)
            self.write(place, Removed(name=name, index=index, size_bytes=size, reason=why, by=self.by))

    def _taken_up(self, directory: PathText) -> list[Event]:
        taken, self._resumed = self._resumed, []
        return [
            dataclasses.replace(
                event,
                name=_named(path, directory),
                passed_over={_named(one, directory): why for one, why in event.passed_over.items()},
            )
            for path, event in taken
        ]


class Attempt:
    """One save, to `path`, which becomes durable or fails; its end is written on the thread that saves."""

    def __init__(self, recording: Recording, directory: PathText, path: str, manifest: Manifest) -> None:
        """Takes what is known of a save before it begins.

        Args:
            recording: of its run.
            directory: whose history has it.
            path: that the file or folder will have.
            manifest: of the file.
        """
        self._recording, self._directory = recording, absolute(directory)
        self.path, self._path, self._manifest = path, absolute(path), manifest
        self._step = recording.step
        self._has_ended = False

    def is_durable(self, report: SaveReport, manifest: Manifest | None = None) -> None:
        """Writes that the file is durable, and makes that durable, too.

        Args:
            report: of the save.
            manifest: the last one of the file, where it has changed.
        """
        self._has_ended = True  # what a caller does then may fail, but not this save
        facts = {name: getattr(report, name) for name in _REPORTED}
        name, number = _named(self._path, self._directory), (manifest or self._manifest).save_number
        event = Saved(name=name, save_number=number, step=self._step, **facts)
        self._recording.write(self._directory, event, is_durable=True)

    def is_given_up(self, why: str) -> None:
        """Writes that the save failed, in words; once."""
        if not self._has_ended:
            self._has_ended = True
            name, index = _named(self._path, self._directory), self._manifest.index
            event = SaveFailed(name=name, index=index, error=why[: about.MOST_LETTERS])
            self._recording.write(self._directory, event)

    def has_failed(self, error: BaseException) -> None:
        """Writes that the save failed; once."""
        self.is_given_up(about.in_words(error))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Writes what the block fails with; an interrupt of the program is no failure of a save."""
        try:
            yield
        except Exception as error:
            self.has_failed(error)
            raise


@contextlib.contextmanager
def recorded_folder(recording: Recording, whole: Transaction, directory: PathText = "") -> Iterator[str]:
    """The block of a transaction, which counts as a save of the run, and is in the history of a directory.

    Args:
        recording: of the run.
        whole: the folder.
        directory: which is there; "": the one that the folder is in.

    Yields:
        what the transaction yields.
    """
    directory = directory or os.path.dirname(whole.path)
    attempt = Attempt(recording, directory, whole.path, whole.manifest)
    with attempt.watched(), whole as staging:
        recording.begin(directory)
        yield staging
    recording.lineage.saves += 1
    if whole.report is not None:
        attempt.is_durable(whole.report)


@contextlib.contextmanager
def recorded(recording: Recording, directory: PathText | None, job: Job) -> Iterator[Job]:
    """Has the end of a save in the history of a directory; None: of none.

    Args:
        recording: of its run.
        directory: which is there.
        job: the save.

    Yields:
        what is to be saved in the block.
    """
    if directory is None:
        yield job
        return
    recording.begin(directory)
    attempt = Attempt(recording, directory, job.path, job.manifest)

    def durable(report: SaveReport) -> None:
        attempt.is_durable(report)
        job.on_durable(report)

    def failed(error: Exception) -> None:
        attempt.has_failed(error)
        if job.on_error is None:
            raise error
        job.on_error(error)

    with attempt.watched():
        yield dataclasses.replace(job, on_durable=durable, on_given_up=attempt.is_given_up, on_error=failed)


_REPORTED = [one.name for one in dataclasses.fields(SaveReport) if one.name != "path"]


def _named(path: str, directory: PathText) -> str:
    """A path relative to a directory; absolute where it is elsewhere."""
    whole, above = absolute(path), absolute(directory).rstrip("/") + "/"
    return whole.removeprefix(above)


_runs: dict[int, tuple[Lineage, Recording, Iterator[int]]] = {}


def _of_new_run(by: str) -> tuple[Lineage, Recording, Iterator[int]]:
    recording = Recording(by)
    return recording.lineage, recording, itertools.count()


def of_this_process() -> tuple[Lineage, Recording]:
    """The run that all files of `save` are of, at its next save; a forked child's is not its parent's.

    No lock is held, which the handler of a signal would wait for for ever if it saves, too.
    """
    process = os.getpid()
    run, recording, numbers = _runs.get(process) or _runs.setdefault(process, _of_new_run("save"))
    lineage = copy.copy(run)
    lineage.saves = next(numbers)
    return lineage, recording
