"""Saves any object to a path of the caller's choice: at once, or behind the training loop."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from marlin_ckpt import naming
from marlin_ckpt.checkpoint import checked_index
from marlin_ckpt.directory import catalog, leftovers
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.naming import Kind
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.closing import Closing
from marlin_ckpt.saving.engine import Engine
from marlin_ckpt.saving.job import Form, How, Job
from marlin_ckpt.saving.lineage import Lineage, index_in
from marlin_ckpt.saving.recording import Recording, of_this_process, recorded
from marlin_ckpt.saving.states import optimizers_in, states_of
from marlin_ckpt.saving.writing.crew import Crew
from marlin_ckpt.storage.local.publishing import is_taken, make_directory

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

    Args:
        obj: anything that can be pickled. Modules, optimizers, schedulers and gradient scalers, alone or in
            dicts, lists and tuples, are saved by their `state_dict()`, so that `load(path, into=obj)`
            restores them. Everything else is saved as `torch.save` saves it.
        path: the name of the file. Missing directories are made; a symbolic link of that name is replaced.
            A name that ends in `.dcp` is that of a sharded checkpoint, a folder: all ranks of the process
            group, if there is one, call this, and each writes what it has.
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
    """
    wanted = _Wanted(obj, os.fspath(path), metrics, index, overwrite)
    lineage, recording = of_this_process()
    lineage.optimizers.update(optimizers_in(obj))
    job = wanted.job(lineage, How(statistics=statistics))
    crew = Crew(is_together=False)
    if job.form is Form.SHARDED:
        crew = _together
        crew.form()
    if crew.here.is_main:
        leftovers.sweep_beside(wanted.path)
    history = history if crew.here.is_main else None
    with recorded(recording, history, job) as job, contextlib.closing(Engine(_logger, crew=crew)) as engine:
        engine.save(job)
        return engine.reports[0]


class Saver(Closing):
    """Saves objects while training goes on: `save` copies the state, and a thread writes the copy.

    Each file is whole and durable under its name, or not there, as with `marlin_ckpt.save`. One save is
    written at a time; the next one waits for it. Call `close`, or use a `with` statement, to wait for the
    last one.

    Attributes:
        logger: where failures in the background are logged.
        history: the directory whose history has the saves; may be changed between two of them.
        recording: what is written there.
    """

    def __init__(  # noqa: PLR0913 - keywords
        self,
        *,
        asynchronous: bool = True,
        overlap: bool = True,
        check_overlap: bool = False,
        as_is: bool = False,
        statistics: bool = False,
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
            on_durable: called with the report of each durable file before the next save begins, to upload it
                for example, on the thread that wrote it. An exception in it counts as a failed save, though
                the file is there. Do not call this Saver in it.
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
        self._engine = Engine(_logger)
        self.recording = Recording("Saver")
        self._lineage = self.recording.lineage
        self._swept: set[str] = set()

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
            StorageError: as `marlin_ckpt.save`; with `asynchronous` a later call may raise it. `errno` is
                EDEADLK if a signal handler or `on_durable` saves in the middle of a save; for EBUSY see
                `register`.
            Exception: the error of the save before, or of its `on_durable`, in the background; this save has
                begun.
        """
        wanted = _Wanted(obj, os.fspath(path), metrics, index, overwrite, self._as_is)
        with self._engine.turn.taken():
            self.register(*optimizers_in(obj))
            durable = self._on_durable if self._how.async_save else self._counted
            job = wanted.job(self._lineage, self._how, durable, self._on_error)
            directory = os.path.dirname(os.path.abspath(path))
            if directory not in self._swept:
                self._swept.add(directory)
                leftovers.sweep_beside(wanted.path)
            if job.form is Form.SHARDED:
                self._engine.crew.is_together = True
                self._engine.crew.form()
            is_main = self._engine.crew.here.is_main
            with recorded(self.recording, self.history if is_main else None, job) as job:
                self._engine.save(job)
            self._lineage.saves += self._how.async_save
        self._engine.raise_earlier()

    def _counted(self, report: SaveReport) -> None:
        self._lineage.saves += 1  # the file has its number, whatever `on_durable` raises
        self._on_durable(report)

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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be saved; see `save`."""

    obj: Any
    path: str
    metrics: Mapping[str, Any] | None
    index: int | None
    overwrite: bool
    as_is: bool = False

    def job(
        self,
        lineage: Lineage,
        how: How,
        on_durable: Callable[[SaveReport], None] = lambda _: None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Job:
        self._check()
        state = self.obj if self.as_is else states_of(self.obj)
        kind = Kind.MODEL if isinstance(self.obj, torch.nn.Module) else Kind.CHECKPOINT
        index = index_in(self.path) if self.index is None else checked_index(self.index)
        manifest = lineage.manifest(kind, index, self.metrics, state, state)
        make_directory(os.path.dirname(self.path) or os.curdir)
        return Job(
            path=self.path, state=state, manifest=manifest, how=how, makes_plain=False,
            form=self.form, overwrite=self.overwrite, on_durable=on_durable, on_error=on_error,
        )  # fmt: skip

    @property
    def form(self) -> Form:
        """A folder where the name says so."""
        return Form.SHARDED if self.path.endswith(f".{naming.SHARDS}") else Form.FILE

    def _check(self) -> None:
        if os.path.basename(self.path) in ("", os.curdir, os.pardir):
            raise StorageError(f"{self.path!r} is not the name of a file", errno=errno.EISDIR)
        try:
            mode = os.stat(self.path).st_mode
        except OSError:  # nothing is there, or the save itself meets it
            mode = stat.S_IFREG
        if self.form is Form.SHARDED:  # what has the name is looked at when the folder is made
            return
        if stat.S_ISDIR(mode):
            raise StorageError("a directory has the name", self.path, errno=errno.EISDIR)
        if not stat.S_ISREG(mode):  # root could replace /dev/null
            raise StorageError("what has the name is no regular file", self.path, errno=errno.EINVAL)
        if not self.overwrite and os.path.lexists(self.path):
            raise is_taken(self.path)
