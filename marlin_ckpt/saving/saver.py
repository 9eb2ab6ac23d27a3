"""Saves any object to a path of the caller's choice: at once, or behind the training loop."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from marlin_ckpt.directory import catalog, leftovers
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.closing import Closing
from marlin_ckpt.saving.engine import Engine
from marlin_ckpt.saving.job import Form, How
from marlin_ckpt.saving.recording import Recording, of_this_process, recorded
from marlin_ckpt.saving.sharing.past import Past
from marlin_ckpt.saving.sharing.sharing import sharing_of
from marlin_ckpt.saving.states import optimizers_in
from marlin_ckpt.saving.writing.crew import Crew
from marlin_ckpt.saving.writing.wanted import Wanted
from marlin_ckpt.storage.paths import absolute

_logger = get_logger(__name__)
_together = Crew(is_together=True)  # of all saves by `save`, which would make groups each time


def save(  # noqa: PLR0913 - keywords
    obj: Any,
    path: PathText,
    *,
    metrics: Mapping[str, Any] | None = None,
    index: int | None = None,
    overwrite: bool = True,
    statistics: bool = False,
    history: PathText | None = None,
) -> SaveReport:
    """Saves an object to a file, whole and durable, or not at all.

    `torch.load` reads the file too. The file gets its name only when all its bytes are on the disk; until
    then, and after any failure, an older file of that name is unchanged.

    Where there is a process group of several ranks, the object and the name decide who saves. A folder
    (`.dcp`) and a file of an object that holds DTensors are saved by all ranks together: each calls this
    with the same path, and what fails at one fails at all. Any other file is saved by whoever calls this, for
    itself alone; of what all ranks have alike, as with DDP, rank 0 saves one.

    Args:
        obj: anything that can be pickled. Modules, optimizers, schedulers and gradient scalers, alone or in
            dicts, lists and tuples, are saved by their `state_dict()`, so that `load(path, into=obj)`
            restores them. Everything else is saved as `torch.save` saves it.
        path: the name of the file. Missing directories are made; a symbolic link of that name is replaced.
            A name that ends in `.dcp` is that of a sharded checkpoint, a folder, to which each rank writes
            what it has. A file has whole tensors in the places of DTensors: rank 0 gathers one after the
            other, and writes what it has of all else.
        metrics: names and numbers for the file's manifest, which `marlin-ckpt list` shows.
        index: the epoch or step, for the manifest. None takes the number in the name, or 0.
        overwrite: replace a file of that name. Without it, when several processes save to one name at once,
            one succeeds and the others get an error; this needs a file system with hard links.
        statistics: save of each tensor of numbers its L2 norm, minimum, maximum and how many values are NaN
            or infinite, too; `read_statistics` reads them.
        history: a directory whose history is to have the save, as `marlin-ckpt log` shows it; None: none.

    Returns:
        the path, the size and how long each part of the save took.

    Raises:
        ArgumentsError: the index is no integer of 0 or more, or a metric is no number.
        UnsavableStateError: the object cannot be pickled; the message says where in it.
        StorageError: the file cannot be written, or it exists and `overwrite` is False (`errno` is EEXIST).
        RankError: another rank has ended, does not come to save within 10 minutes, or saves something else.
    """
    wanted = Wanted(obj, path, metrics=metrics, index=index, overwrite=overwrite)
    lineage, recording = of_this_process()
    lineage.optimizers.update(optimizers_in(obj))
    crew = wanted.meet(_together, lineage)
    job = crew.done(lambda: wanted.job(crew, lineage, How(statistics=statistics)))
    if crew.here.is_main:
        leftovers.sweep_beside(wanted.path)
    history = history if crew.here.is_main else None
    with recorded(recording, history, job) as job, contextlib.closing(Engine(_logger, crew=crew)) as engine:
        engine.save(job)
        return engine.reports[0]


class Saver(Closing):
    """Saves objects while training goes on: `save` copies the state, and a thread writes the copy.

    Each file is whole and durable under its name, or not there, as with `marlin_ckpt.save`, which also says
    what the ranks of a process group save together. One save is written at a time; the next one waits for it.
    Call `close`, or use a `with` statement, to wait for the last one.

    Attributes:
        logger: where failures in the background are logged.
        history: the directory whose history has the saves; may be changed between two of them.
        recording: what is written there.
        is_going: says of the path of an earlier file whether it is removed once the next one is durable.
    """

    def __init__(  # noqa: PLR0913 - keywords
        self,
        *,
        asynchronous: bool = True,
        overlap: bool = True,
        check_overlap: bool = False,
        as_is: bool = False,
        statistics: bool = False,
        share_unchanged: bool = False,
        on_durable: Callable[[SaveReport], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        history: PathText | None = None,
    ) -> None:
        """Sets how to save; nothing is written yet.

        Args:
            asynchronous: write in the background, with as much extra memory as the largest state takes.
                False: `save` returns when the file is durable.
            overlap: copy in the background also what only an optimizer's step changes; its next step waits
                until that is copied. See `DefaultCheckpointerArguments`.
            check_overlap: compare checksums, so that a tensor that is written to through `.data` during its
                copy is noticed.
            as_is: save modules, optimizers and the like as `torch.save` does, not by their `state_dict()`.
            statistics: as for `marlin_ckpt.save`.
            share_unchanged: let files share large tensors that have not changed since the save before; see
                `DefaultCheckpointerArguments`. Two copies of what the files hold stay, where those that are
                removed are the oldest.
            on_durable: called with the report of each durable file before the next save begins, to upload it
                for example, on the thread that wrote it; at rank 0 alone where ranks save together. An
                exception in it counts as a failed save, though the file is there. Do not call this Saver in
                it.
            on_error: called with the error of a save in the background, or of `on_durable`, on that thread.
                Without it the next call raises the error. It is not used if `asynchronous` is False.
            history: a directory whose history is to have the saves, as `marlin-ckpt log` shows it.
        """
        self._how = How(asynchronous, overlap, check_overlap, statistics)
        self.history = history
        self._as_is = as_is
        self._on_durable = on_durable or (lambda _: None)
        self._on_error = on_error
        self.logger = _logger
        self._engine = Engine(_logger, is_together=True)
        self.recording = Recording("Saver")
        self._lineage = self.recording.lineage
        self._swept: set[str] = set()
        self._past = Past(_logger) if share_unchanged else None
        self.is_going: Callable[[str], bool] = lambda _: False

    @property
    def run_id(self) -> str:
        """The id of the run, which is in the manifest of each file."""
        return self._lineage.run_id

    def register(self, *optimizers: Optimizer) -> None:
        """Names optimizers whose parameters and state only their `step` changes.

        With `overlap` these are copied while training goes on, and the next step waits for the rest of the
        copy. An optimizer that is itself in the saved object need not be named; one whose `state_dict()` is
        in it is known from its next step on. If something else changes such a tensor during its copy, the
        file is not written, the error is a StorageError (`errno` is EBUSY), and later saves copy everything
        before they return.
        """
        self._lineage.optimizers.update(optimizers)
        if self._how.async_save and self._how.overlap:
            self._engine.register(*optimizers)

    def continue_run(self, path: PathText) -> None:
        """Continues the run that wrote a checkpoint: its run id and the count of its saves.

        Args:
            path: the checkpoint that was loaded. A file of another tool changes nothing.

        Raises:
            CheckpointNotFoundError: there is no such checkpoint.
        """
        entry = catalog.entry(path)
        if entry is None:
            raise CheckpointNotFoundError("no such checkpoint", os.fspath(path))
        self.recording.continues(entry.path, inspect(entry).manifest)

    def save(
        self,
        obj: Any,
        path: PathText,
        *,
        metrics: Mapping[str, Any] | None = None,
        index: int | None = None,
        overwrite: bool = True,
    ) -> None:
        """Saves an object as `marlin_ckpt.save` does; in the background if `asynchronous` is set.

        When this returns the object may be changed, except that with `overlap` the tensors of a known
        optimizer may only be changed by its step.

        Args:
            obj: as for `marlin_ckpt.save`.
            path: as for `marlin_ckpt.save`; a relative path is below the working directory of this moment.
            metrics: as for `marlin_ckpt.save`.
            index: as for `marlin_ckpt.save`.
            overwrite: as for `marlin_ckpt.save`.

        Raises:
            ArgumentsError: as `marlin_ckpt.save`.
            UnsavableStateError: as `marlin_ckpt.save`.
            RankError: as `marlin_ckpt.save`.
            StorageError: as `marlin_ckpt.save`; with `asynchronous` a later call may raise it. `errno` is
                EDEADLK if a signal handler or `on_durable` saves in the middle of a save; for EBUSY see
                `register`.
            Exception: the error of the save before, or of its `on_durable`, in the background; this save has
                begun.
        """
        with self._engine.turn.taken():
            wanted = Wanted(obj, path, metrics=metrics, index=index, overwrite=overwrite, as_is=self._as_is)
            self.register(*optimizers_in(obj))
            crew = wanted.meet(self._engine.crew, self._lineage)
            is_main = crew.here.is_main

            def durable(report: SaveReport) -> None:
                # The file has its number, whatever `on_durable` raises.
                self._lineage.saves += not self._how.async_save
                if is_main:
                    self._on_durable(report)

            job = crew.done(lambda: wanted.job(crew, self._lineage, self._how, durable, self._on_error))
            directory = os.path.dirname(absolute(path))
            if is_main and directory not in self._swept:
                self._swept.add(directory)
                leftovers.sweep_beside(wanted.path)
            if self._past and job.form is not Form.GATHERED:
                own = (self._past, job.path, job.manifest)
                job = replace(job, sharing=sharing_of(*own, is_going=self.is_going))
            with recorded(self.recording, self.history if is_main else None, job) as job:
                self._engine.save(job)
            self._lineage.saves += self._how.async_save
        self._engine.raise_earlier()

    def wait(self) -> None:
        """Waits until everything that was saved is durable, and `on_durable` has returned.

        Raises:
            Exception: the error of a save in the background that was not raised before.
        """
        self._engine.wait()

    def take_reports(self) -> list[SaveReport]:
        """The reports of the files that became durable since the last call, at most the last 1,000."""
        return self._engine.take_reports()

    def close(self) -> None:
        """Waits as `wait` does and frees the memory for copies; a later save takes it again.

        Raises:
            Exception: as `wait`.
        """
        self._engine.close()
