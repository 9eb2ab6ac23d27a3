"""A directory of checkpoints of one prefix: what is there, the newest, the best, and what goes."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch.optim import Optimizer

from marlin_ckpt.checkpoint import checked_index
from marlin_ckpt.checkpointer.choice import Which, choose
from marlin_ckpt.checkpointer.directory_arguments import Layout, Mode, run_arguments
from marlin_ckpt.checkpointer.run_saves import Request, RunSaves
from marlin_ckpt.directory.newest import Candidates, newest_intact
from marlin_ckpt.directory.retention.pruning import prune
from marlin_ckpt.directory.search import Series
from marlin_ckpt.distributed.failures import together, told_by_main
from marlin_ckpt.distributed.ranks import shared
from marlin_ckpt.errors import ArgumentsError, Fault
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.layouts.folder import FolderLayout
from marlin_ckpt.formats.torch.placement import MapLocation
from marlin_ckpt.formats.verdicts import CheckpointInfo, Status, info_of
from marlin_ckpt.keep import BestArguments, RetentionArguments
from marlin_ckpt.loading.anything import Load
from marlin_ckpt.naming import Kind
from marlin_ckpt.reports import Pruning, SaveReport
from marlin_ckpt.saving.closing import Closing
from marlin_ckpt.saving.states import optimizers_in, states_of

_logger = get_logger(__name__)


class CheckpointDirectory(Closing):
    """The checkpoints in one directory: files `{prefix}_{index}.{ext}` and folders `{prefix}_{index}`.

    Iterating gives a `CheckpointInfo` for each, in order of the index; the newest has the greatest index.
    What other processes save or remove is seen at the next call. With `asynchronous` call `close`, or use a
    `with` statement, to wait for the last save.

    All ranks of a process group call `load`, and `save` where they save together, see `layout`: of what all
    have alike, as with DDP, rank 0 saves a file by itself. The other methods are of each process alone.

    Attributes:
        path: the directory.
        logger: where skipped and removed checkpoints and failures in the background are logged.
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
        layout: Layout = "auto",
        statistics: bool = False,
        share_unchanged: bool = False,
        on_durable: Callable[[SaveReport], None] | None = None,
    ) -> None:
        """Sets what belongs to the directory; nothing is made or read yet.

        Args:
            path: the directory; the first save makes it.
            prefix: the start of the names.
            ext: the extension of files, without its dot.
            keep: which checkpoints of the run stay after each save. A number keeps so many of the newest;
                None keeps all.
            run: the id of a run: only its checkpoints are seen, and saves belong to it. With None the
                checkpoints of all runs are seen, and saves belong to a new run, or after `load` to the run of
                what was loaded.
            asynchronous: `save` copies the state, and a thread writes the copy.
            layout: with `auto` all ranks save a state with DTensors to one folder, `{prefix}_{index}.dcp`;
                with `file` rank 0 gathers it for one file; `sharded` has all save any state to a folder.
            statistics: as for `marlin_ckpt.save`.
            share_unchanged: let files share what stays the same; as in `DefaultCheckpointerArguments`.
            on_durable: called with the report of each durable checkpoint, after `keep` was applied, on the
                thread that wrote it; where ranks save together, at rank 0 alone. An exception in it counts as
                a failed save, though the checkpoint is there. Do not call this object in it.

        Raises:
            ArgumentsError: naming every argument that is wrong.
        """
        self.path = os.fspath(path)
        self.logger = _logger
        how = {"asynchronous": asynchronous, "statistics": statistics, "share_unchanged": share_unchanged}
        self._args = run_arguments(self.path, prefix, ext, keep, run, layout, **how)
        self._series = Series(self.path, prefix, ext, run)
        self._on_durable = on_durable or (lambda _: None)
        self._saves = RunSaves(self.logger, "CheckpointDirectory")
        if run is not None:
            self._saves.lineage.run_id = run

    @property
    def run_id(self) -> str:
        """The id of the run that saves here; `load` takes it from the checkpoint."""
        return self._saves.lineage.run_id

    def __iter__(self) -> Iterator[CheckpointInfo]:
        return map(info_of, self._series.inspections())

    def latest(self, *, intact: bool = True) -> CheckpointInfo | None:
        """The newest checkpoint; None if there is none.

        Args:
            intact: read it in full, and if it is damaged go on to the one before it; the log says why. With
                False take the newest whatever its `status` is.

        Raises:
            StorageError: the directory, or a file in it, cannot be read.
        """
        if intact:
            return self._first_intact(self._series.newest_first)
        found = self._series.newest()
        return None if found is None else info_of(found)

    def best(self, metric: str, mode: Mode = "min") -> CheckpointInfo | None:
        """The intact checkpoint with the best value of a metric; of equal values the newest.

        Args:
            metric: its name. Checkpoints without a finite value of it are left out.
            mode: whether the smallest (`min`) or the largest (`max`) value is the best.

        Returns:
            None if no intact checkpoint has the metric. Damaged ones are passed over and logged.

        Raises:
            ArgumentsError: `mode` is something else.
            StorageError: the directory, or a file in it, cannot be read.
        """
        rule = BestArguments(metric, mode)
        return self._first_intact(lambda: self._series.best_first(rule))

    def save(self, obj: Any, index: int, *, metrics: Mapping[str, Any] | None = None) -> SaveReport | None:
        """Saves an object as `marlin_ckpt.save` does, under the name for an index; then applies `keep`.

        Args:
            obj: as for `marlin_ckpt.save`.
            index: the epoch or step, 0 or more. A checkpoint that has it is replaced.
            metrics: names and numbers, for `best` and for the rules of `keep`.

        Returns:
            the report of the save; None with `asynchronous`, where `on_durable` gets it.

        Raises:
            ArgumentsError: the index or a metric is wrong.
            UnsavableStateError: the object cannot be pickled; the message says where in it.
            StorageError: the file cannot be written; an older one of that name is unchanged.
            MarlinError: the error of an earlier save in the background; this one has begun.
        """
        number = checked_index(index)
        self.register(*optimizers_in(obj))
        state = states_of(obj)
        describe = partial(self._saves.lineage.manifest, Kind.CHECKPOINT, number, metrics, state, state)
        reports: list[SaveReport] = []

        def durable(report: SaveReport) -> None:
            reports.append(report)
            if self._saves.engine.crew.here.is_main:
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
        """Loads a checkpoint as `marlin_ckpt.load` does; later saves continue the run of that checkpoint.

        All ranks of a process group load the same: what one finds damaged, all pass over.

        Args:
            which: `latest`, the greatest index; `best`, by a metric; or an index. With the first two, damaged
                ones are passed over and logged.
            into: live objects to fill; for this and the arguments below see `marlin_ckpt.load`.
            metric: the metric of `best`. None takes the one in the rule `best` of `keep`.
            mode: `min` or `max`, for `best`. None takes that rule's, or `min`.
            map_location: where tensors go.
            strict: whether a state that does not fit is an error.
            strip_prefix: a prefix to remove from names.
            weights_only: import nothing but tensors and plain values.

        Returns:
            what `marlin_ckpt.load` returns.

        Raises:
            ArgumentsError: an argument is wrong.
            CheckpointNotFoundError: there is no such checkpoint.
            MarlinError: what `marlin_ckpt.load` raises; if all are damaged, for the first of them. Also for a
                folder: `latest` has its path, and you load its files.
            Exception: the error of a save in the background, as `wait`.
        """
        choice = choose(self._series, which, metric, mode, self._args.keep)
        ranks = shared()
        together(ranks, self.wait)
        one = Load(into, map_location, strict, strip_prefix, weights_only, ranks)
        passed_over: dict[str, str] = {}
        attempt = self._saves.sharing.reading(self._args, one.found)
        entry, loaded = choice.loaded(ranks, attempt, self.logger, passed_over.__setitem__)
        manifest = told_by_main(ranks, lambda: inspect(entry).manifest)
        self._saves.recording.continues(entry.path, manifest, passed_over)
        return loaded

    def prune(self, *, dry_run: bool = False) -> Pruning:
        """Removes what `keep` does not keep, of all runs, or of the one that was named.

        The rules are applied to each run by itself, and its newest intact checkpoint always stays. After a
        save they are applied to the run that saves alone.

        Args:
            dry_run: decide, but remove nothing.

        Raises:
            ArgumentsError: there is no `keep`, or no checkpoint has the metric of a rule.
            CheckpointNotFoundError: there is no such directory.
            DirectoryInUseError: a trainer saves there.
            StorageError: the directory, or a file in it, cannot be read.
            MarlinError: no rule keeps any checkpoint.
            Exception: the error of a save in the background, as `wait`.
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

        Any name is allowed, but only names with the prefix, `model_500` (or `checkpoint-500` if the prefix is
        `checkpoint`), are seen by this object and governed by `keep`.

        Args:
            name: the folder's name. A folder of that name is replaced.
            metrics: names and numbers for its manifest.
            index: the epoch or step, for its manifest. None takes the number in the name, or 0.

        Yields:
            the path of an empty folder to write files into. At the end of the block their checksums are
            computed, they are made durable, a manifest is written, the folder gets its name, and `keep` is
            applied, all after saves in the background. If the block raises, nothing stays. What a killed
            process leaves is removed by the next transaction, or the first save of another
            `CheckpointDirectory`.

        Raises:
            ArgumentsError: the name, a metric or the index is wrong.
            StorageError: a system call failed, or the folder holds what is neither file nor folder.
            Exception: the error of an earlier save in the background; the folder was published first.
        """
        own = FolderLayout().read_name(name)
        number = (own.index if own else 0) if index is None else checked_index(index)
        with self._saves.transaction(self._args, name, number, metrics, self._on_durable) as staging:
            yield staging

    def register(self, *optimizers: Optimizer) -> None:
        """Names optimizers whose parameters and state only their `step` changes; see `Saver.register`."""
        self._saves.register(self._args, *optimizers)

    def wait(self) -> None:
        """Waits until everything that was saved is durable.

        Raises:
            Exception: the error of a save in the background that was not raised before.
        """
        self._saves.engine.wait()

    def close(self) -> None:
        """Waits as `wait` does and frees the memory for copies; a later save takes it again."""
        self._saves.engine.close()

    def _first_intact(self, candidates: Candidates) -> CheckpointInfo | None:
        found = newest_intact(candidates, self._log_passed_over)
        if found is None:
            return None
        about = info_of(inspect(found))  # of the structure; but all of it has been read by now
        return replace(about, status=Status.INTACT) if about.status is Status.COMPLETE else about

    def _log_passed_over(self, path: str, reason: str) -> None:
        self.logger.warning("Passed over: %s: %s", path, reason)
