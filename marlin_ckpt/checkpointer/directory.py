"""A directory of checkpoints of one prefix: what is there, the newest, the best, and what goes."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from torch.optim import Optimizer

from marlin_ckpt.checkpoint import checked_index
from marlin_ckpt.checkpointer.choice import Which, choose
from marlin_ckpt.checkpointer.directory_arguments import run_arguments
from marlin_ckpt.checkpointer.run_saves import Request, RunSaves
from marlin_ckpt.directory.newest import Candidates, newest_intact
from marlin_ckpt.directory.retention.pruning import prune
from marlin_ckpt.directory.search import Series
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import ArgumentsError, Fault
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.layouts.folder import FolderLayout
from marlin_ckpt.formats.torch.placement import MapLocation
from marlin_ckpt.formats.verdicts import CheckpointInfo, Status, info_of
from marlin_ckpt.keep import BestArguments, RetentionArguments
from marlin_ckpt.loading.anything import load
from marlin_ckpt.naming import Kind
from marlin_ckpt.reports import Pruning, SaveReport
from marlin_ckpt.saving.closing import Closing
from marlin_ckpt.saving.states import optimizers_in, states_of

_logger = get_logger(__name__)

Mode = Literal["min", "max"]


class CheckpointDirectory(Closing):
    """The checkpoints `{prefix}_{index}.{ext}` directly in one directory, and folders `{prefix}_{index}`.

    Iterating gives a `CheckpointInfo` for each, in order of the index; the newest is the one with the
    greatest index. What another process saves or removes is seen at the next call, and what is saved in the
    background once it is durable. With `asynchronous` close it, or use it in a `with` statement, to be sure
    of the last save.

    Attributes:
        path: of the directory.
        logger: is told what was passed over, what was removed, and what goes wrong in the background.
    """

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        path: PathText,
        *,
        prefix: str = "model",
        ext: str = "pt",
        keep: RetentionArguments | int | None = None,
        run: str | None = None,
        asynchronous: bool = False,
        on_durable: Callable[[SaveReport], None] | None = None,
    ) -> None:
        """Takes what belongs to the directory; nothing is made or read yet.

        Args:
            path: of the directory, which the first save makes.
            prefix: what the names start with.
            ext: the extension of files, without its dot.
            keep: which checkpoints of the run stay after each save; a number: the newest so many; None: all.
            run: the id of a run: only its checkpoints are seen, and what is saved is of that run. None: those
                of all runs are seen, and what is saved is of a new run, or after `load` of the run of what
                was loaded.
            asynchronous: `save` copies the state, and a thread writes the copy.
            on_durable: called with the report of each checkpoint that is durable, after retention, on the
                thread that has written it. What it raises counts as a failure, though the checkpoint is
                there. This object does not save, load, wait or close in it.

        Raises:
            ArgumentsError: naming every argument that is wrong.
        """
        self.path = os.fspath(path)
        self.logger = _logger
        self._args = run_arguments(self.path, prefix, ext, keep, run, asynchronous=asynchronous)
        self._series = Series(self.path, prefix, ext, run)
        self._on_durable = on_durable or (lambda _: None)
        self._saves = RunSaves(self.logger)
        if run is not None:
            self._saves.lineage.run_id = run

    @property
    def run_id(self) -> str:
        """The id of the run that saves here; `load` takes over that of what it loads."""
        return self._saves.lineage.run_id

    def __iter__(self) -> Iterator[CheckpointInfo]:
        return map(info_of, self._series.inspections())

    def latest(self, *, intact: bool = True) -> CheckpointInfo | None:
        """The checkpoint with the greatest index; None where there is none.

        Args:
            intact: read it whole, and go on to the one before it where it is not intact; the log says why.
                False: take it whatever its `status` is.

        Raises:
            StorageError: the directory, or a file in it, cannot be read.
        """
        if intact:
            return self._first_intact(self._series.newest_first)
        found = self._series.newest()
        return None if found is None else info_of(found)

    def best(self, metric: str, mode: Mode = "min") -> CheckpointInfo | None:
        """The checkpoint with the best value of a metric that is intact; of equal ones the newest.

        Args:
            metric: its name; what has no finite value of it is never best.
            mode: whether the least (`min`) or the greatest value (`max`) is best.

        Returns:
            None where no intact checkpoint has the metric. What is not intact is passed over; the log says
            why.

        Raises:
            ArgumentsError: the mode is neither.
            StorageError: the directory, or a file in it, cannot be read.
        """
        rule = BestArguments(metric, mode)
        return self._first_intact(lambda: self._series.best_first(rule))

    def save(self, obj: Any, index: int, *, metrics: Mapping[str, Any] | None = None) -> SaveReport | None:
        """Saves an object as `marlin_ckpt.save` does, under the name for an index; then `keep` is applied.

        Args:
            obj: what `marlin_ckpt.save` takes.
            index: the epoch or step, 0 or more; a checkpoint that has it is replaced.
            metrics: names and numbers, for `best` and for the rules of `keep`.

        Returns:
            what the save took; None with `asynchronous`, where `on_durable` is told.

        Raises:
            ArgumentsError: the index or a metric is wrong.
            UnsavableStateError: the object cannot be pickled; the message says where in it.
            StorageError: the file cannot be written; an older one of the name stands.
            MarlinError: what an earlier save has failed with in the background; this one was begun first.
        """
        number = checked_index(index)
        self.register(*optimizers_in(obj))
        state = states_of(obj)
        describe = partial(self._saves.lineage.manifest, Kind.CHECKPOINT, number, metrics, state, state)
        reports: list[SaveReport] = []

        def durable(report: SaveReport) -> None:
            reports.append(report)
            self._on_durable(report)

        wanted = Request(
            state=state, describe=describe, makes_plain=False, gives_up=False, on_durable=durable
        )
        self._saves.save(self._args, wanted)
        return reports[0] if reports and not self._args.async_save else None

    def load(  # noqa: PLR0913 - all but the first are names
        self,
        which: Which = "latest",
        *,
        into: Any = None,
        metric: str | None = None,
        mode: Mode | None = None,
        map_location: MapLocation = "cpu",
        strict: bool = True,
        strip_prefix: str | None = None,
        weights_only: bool = True,
    ) -> Any:
        """Loads a checkpoint as `marlin_ckpt.load` does; the run goes on as the run of that checkpoint.

        Args:
            which: `latest`, the greatest index; `best`, by a metric; or an index. Of the first two what is
                damaged is passed over, and the log says why.
            into: live objects to fill; see `marlin_ckpt.load`, also for what is not described here.
            metric: of `best`; None takes the rule `best` of `keep`.
            mode: of `best`, `min` or `max`; None takes that rule's, or `min`.
            map_location: where tensors go.
            strict: whether a state that does not fit is an error.
            strip_prefix: removed from names.
            weights_only: import nothing beyond plain values and tensors.

        Returns:
            what `marlin_ckpt.load` returns.

        Raises:
            ArgumentsError: an argument is wrong.
            CheckpointNotFoundError: there is no such checkpoint.
            MarlinError: what `marlin_ckpt.load` raises: of `latest` and `best`, if all are damaged, for the
                first of them; and for a folder, whose files are for you to load, see `latest`.
            Exception: what a save has failed with in the background, as `wait`.
        """
        choice = choose(self._series, which, metric, mode, self._args.keep)
        self.wait()

        def attempt(entry: Entry) -> tuple[Entry, Any]:
            return entry, load(
                entry.path,
                into=into,
                map_location=map_location,
                strict=strict,
                strip_prefix=strip_prefix,
                weights_only=weights_only,
            )

        entry, loaded = choice.loaded(attempt, self.logger)
        self._saves.lineage.continues(inspect(entry).manifest, entry.path)
        return loaded

    def prune(self, *, dry_run: bool = False) -> Pruning:
        """Removes what `keep` does not keep, of all runs whose checkpoints are seen; see `run`.

        The rules are applied to each run for itself, and the newest intact checkpoint of each always stays.
        After a save they are applied to the run that saves alone.

        Args:
            dry_run: only decide.

        Raises:
            ArgumentsError: there is no `keep`.
            CheckpointNotFoundError: there is no such directory.
            DirectoryInUseError: a trainer saves there.
            StorageError: it cannot be read.
            MarlinError: no rule keeps any checkpoint, or none has the metric of a rule.
            Exception: what a save has failed with in the background, as `wait`.
        """
        rules = self._args.keep
        if rules is None:
            raise ArgumentsError([Fault("keep", "is missing, so that there is nothing to prune by")])
        self.wait()
        return prune(self._series, rules, dry_run=dry_run)

    @contextlib.contextmanager
    def transaction(
        self, name: str, *, metrics: Mapping[str, Any] | None = None, index: int | None = None
    ) -> Iterator[str]:
        """Makes a folder that appears under its name whole and durable, with checksums, or not at all.

        Any name will do, but this object sees, and `keep` governs, those of its prefix alone: `model_500`, or
        where the prefix is `checkpoint`, `checkpoint-500`.

        Args:
            name: of the folder; a folder that has it is replaced.
            metrics: names and numbers for its manifest.
            index: the epoch or step, for its manifest; None takes the one in the name, or 0.

        Yields:
            the path of an empty folder to write files into. When the block ends they are read for their
            checksums and made durable, a manifest is written, and the folder gets its name; then `keep` is
            applied, after what is being saved in the background. When the block raises, nothing of it is
            left. What a killed process leaves is removed by the next transaction here, or by the first save
            of another `CheckpointDirectory`.

        Raises:
            ArgumentsError: no folder may have this name, or a metric or the index is wrong.
            StorageError: a system call failed, or something in the folder is neither file nor folder.
            Exception: what a save before has failed with in the background; the folder was published first.
        """
        own = FolderLayout().read_name(name)
        number = (own.index if own else 0) if index is None else checked_index(index)
        with self._saves.transaction(self._args, name, number, metrics, self._on_durable) as staging:
            yield staging

    def register(self, *optimizers: Optimizer) -> None:
        """Names optimizers whose parameters and state nothing but their `step` changes; see `Saver`."""
        self._saves.register(self._args, *optimizers)

    def wait(self) -> None:
        """Waits until everything that was saved is durable.

        Raises:
            Exception: what a save has failed with in the background, unless that was raised before.
        """
        self._saves.engine.wait()

    def close(self) -> None:
        """Waits as `wait` does, and gives the memory for copies back; a later save takes it anew."""
        self._saves.engine.close()

    def _first_intact(self, candidates: Candidates) -> CheckpointInfo | None:
        found = newest_intact(candidates, self._log_passed_over)
        if found is None:
            return None
        about = info_of(inspect(found))  # of the structure; but all of it has been read by now
        return replace(about, status=Status.INTACT) if about.status is Status.COMPLETE else about

    def _log_passed_over(self, path: str, reason: str) -> None:
        self.logger.warning("Passed over: %s: %s", path, reason)
