"""Saves any object to a path of the caller's choice: at once, or behind the training loop."""

import contextlib
import copy
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from marlin_ckpt import grammars, naming
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
from marlin_ckpt.saving.job import How, Job
from marlin_ckpt.saving.lineage import Lineage
from marlin_ckpt.saving.states import optimizers_in, states_of
from marlin_ckpt.storage.local.publishing import is_taken, make_directory

_logger = get_logger(__name__)


def save(
    obj: Any,
    path: PathText,
    *,
    metrics: Mapping[str, Any] | None = None,
    index: int | None = None,
    overwrite: bool = True,
) -> SaveReport:
    """Saves an object to a file, whole and durable, or not at all.

    The file is one that `torch.load` reads. It appears under its name in one instant, when its bytes are on
    the disk; until then, and after any failure, a file that had the name is there unchanged.

    Args:
        obj: anything that can be pickled. Modules, optimizers, schedulers and gradient scalers in it that are
            reached through dicts, lists and tuples are saved by their `state_dict()`, so that
            `load(path, into=obj)` restores them; all else is saved as by `torch.save`.
        path: exactly this name; directories that are missing are made, a symbolic link is replaced.
        metrics: names and numbers for the file's manifest, where `marlin-ckpt list` finds them.
        index: the epoch or step, for the manifest; None takes the one in the name, or 0.
        overwrite: whether a file that has the name is replaced. Of several that save at once without it, one
            succeeds, on a file system that has hard links.

    Returns:
        what the save took.

    Raises:
        ArgumentsError: the index or a metric is wrong.
        UnsavableStateError: the object cannot be pickled; the message says where in it.
        StorageError: the file cannot be written; or it exists already, without `overwrite` (EEXIST).
    """
    wanted = _Wanted(obj, os.fspath(path), metrics, index, overwrite)
    lineage = _this_process()
    lineage.optimizers.update(optimizers_in(obj))
    job = wanted.job(lineage, How())
    leftovers.sweep_beside(wanted.path)
    with contextlib.closing(Engine(_logger)) as engine:
        engine.save(job)
        return engine.reports[0]


class Saver(Closing):
    """Saves objects behind the training loop: `save` copies, and a thread writes the copy.

    Each file is durable and whole under its name, or not there, as with `marlin_ckpt.save`. One save is under
    way at a time; the next one waits for it. Close it, or use it in a `with` statement, to be sure of the
    last one.

    Attributes:
        logger: is told of what goes wrong in the background.
    """

    def __init__(  # noqa: PLR0913 - keywords
        self,
        *,
        asynchronous: bool = True,
        overlap: bool = True,
        check_overlap: bool = False,
        as_is: bool = False,
        on_durable: Callable[[SaveReport], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """Takes how to save.

        Args:
            asynchronous: write in the background; takes as much memory as the largest state. False: `save`
                returns when the file is durable.
            overlap: copy in the background, too, what only an optimizer's step changes; its next step waits
                for the rest of the copy. See `DefaultCheckpointerArguments.overlap`.
            check_overlap: compare checksums, so that tensors that are changed through `.data` are noticed.
            as_is: save modules, optimizers and the like as `torch.save` does, not by their states.
            on_durable: called with the report of each file that is durable, on the thread that has written
                it, before the next save: to upload the file, say. What it raises counts as a failure, though
                the file is there. This Saver does not save, wait or close in it.
            on_error: called on that thread with what a save, or `on_durable`, has failed with in the
                background, in place of raising it at the next call. Not where `asynchronous` is off.
        """
        self._how = How(asynchronous, overlap, check_overlap)
        self._as_is = as_is
        self._on_durable = on_durable or (lambda _: None)
        self._on_error = on_error
        self.logger = _logger
        self._engine = Engine(_logger)
        self._lineage = Lineage()
        self._swept: set[str] = set()

    @property
    def run_id(self) -> str:
        """The id of the run that all files are of."""
        return self._lineage.run_id

    def register(self, *optimizers: Optimizer) -> None:
        """Names optimizers whose parameters and state nothing but their `step` changes.

        With `overlap` it is copied while training goes on, and the next step waits for the rest of the copy.
        Optimizers that are themselves in what is saved are known from then on, those whose states are in it
        from their next step on, and those that are named here at once. Where something else changes such a
        tensor while it is copied, the file is not written, a StorageError (EBUSY) says so, and later saves
        copy everything before they return.
        """
        self._lineage.optimizers.update(optimizers)
        if self._how.async_save and self._how.overlap:
            self._engine.register(*optimizers)

    def continue_run(self, path: PathText) -> None:
        """Takes a checkpoint that was loaded for the last save of this run: a resumed run is the same run.

        Args:
            path: of the checkpoint; from a file by another tool nothing is taken.

        Raises:
            CheckpointNotFoundError: there is no such checkpoint.
        """
        entry = catalog.entry(path)
        if entry is None:
            raise CheckpointNotFoundError("no such checkpoint", os.fspath(path))
        self._lineage.continues(inspect(entry).manifest, entry.path)

    def save(
        self,
        obj: Any,
        path: PathText,
        *,
        metrics: Mapping[str, Any] | None = None,
        index: int | None = None,
        overwrite: bool = True,
    ) -> None:
        """Saves an object as `marlin_ckpt.save` does, behind the loop where `asynchronous` is set.

        What the object holds may be changed as soon as this returns; tensors of a known optimizer by its
        step alone.

        Args:
            obj: as for `marlin_ckpt.save`.
            path: exactly this name, below the present working directory if it is relative.
            metrics: as for `marlin_ckpt.save`.
            index: as for `marlin_ckpt.save`.
            overwrite: as for `marlin_ckpt.save`.

        Raises:
            ArgumentsError, UnsavableStateError, StorageError: as `marlin_ckpt.save`; of what is written in
                the background a later call raises them. EDEADLK: a signal's handler, or `on_durable`, asks
                for a save in the middle of one; EBUSY: see `register`.
            Exception: what the save before, or its `on_durable`, has failed with in the background; this
                save was begun first.
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
            self._engine.save(job)
            self._lineage.saves += self._how.async_save
        self._engine.raise_earlier()

    def _counted(self, report: SaveReport) -> None:
        self._lineage.saves += 1  # the file has its number, whatever `on_durable` raises
        self._on_durable(report)

    def wait(self) -> None:
        """Waits until all that was saved is durable, and its `on_durable` has returned.

        Raises:
            Exception: what a save has failed with in the background, unless that was raised before.
        """
        self._engine.wait()

    def take_reports(self) -> list[SaveReport]:
        """The reports of the files that have become durable since the last call, at most the last 1,000."""
        return self._engine.take_reports()

    def close(self) -> None:
        """Waits as `wait` does, and gives the memory for copies back; a later save takes it anew.

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
        index = _index_in(self.path) if self.index is None else checked_index(self.index)
        manifest = lineage.manifest(kind, index, self.metrics, state, state)
        make_directory(os.path.dirname(self.path) or os.curdir)
        return Job(
            path=self.path, state=state, manifest=manifest, how=how, makes_plain=False,
            overwrite=self.overwrite, on_durable=on_durable, on_error=on_error,
        )  # fmt: skip

    def _check(self) -> None:
        if os.path.basename(self.path) in ("", os.curdir, os.pardir):
            raise StorageError(f"{self.path!r} is not the name of a file", errno=errno.EISDIR)
        try:
            mode = os.stat(self.path).st_mode
        except OSError:  # nothing is there, or the save itself meets it
            mode = stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise StorageError("a directory has the name", self.path, errno=errno.EISDIR)
        if not stat.S_ISREG(mode):  # root could replace /dev/null
            raise StorageError("what has the name is no regular file", self.path, errno=errno.EINVAL)
        if not self.overwrite and os.path.lexists(self.path):
            raise is_taken(self.path)


def _index_in(path: str) -> int:
    """The index in a name, by our grammar or another tool's; 0 where there is none."""
    name = os.path.basename(path)
    if ours := naming.folder_name(name):  # which may have an extension
        return ours.index
    found = grammars.read(os.path.splitext(name)[0])
    if found is None:
        return 0
    return (found.epoch or 0) if found.step is None else found.step


_runs: dict[int, tuple[Lineage, Iterator[int]]] = {}


def _this_process() -> Lineage:
    """The run that all files of `save` are of, at its next save; a forked child's is not its parent's.

    No lock is held, which the handler of a signal would wait for for ever if it saves, too.
    """
    process = os.getpid()
    run, numbers = _runs.get(process) or _runs.setdefault(process, (Lineage(), itertools.count()))
    lineage = copy.copy(run)
    lineage.saves = next(numbers)
    return lineage
