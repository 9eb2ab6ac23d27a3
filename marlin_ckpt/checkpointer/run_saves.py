"""The saves of one run into directories, which the checkpointers of both interfaces have in common."""

import contextlib
import copy
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch.optim import Optimizer

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpointer.sharing import RunSharing
from marlin_ckpt.directory import leftovers
from marlin_ckpt.directory.lease import Lease
from marlin_ckpt.directory.neighbours import Neighbours
from marlin_ckpt.directory.remote.reaching import layout_in
from marlin_ckpt.directory.retention.in_run import Keeper
from marlin_ckpt.directory.transaction import Transaction
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import MarlinError, RankError, StorageError, UnsavableStateError
from marlin_ckpt.fields import PathText, duration_of
from marlin_ckpt.formats.layouts.folder import FolderLayout
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import SHARDS, FileName, Kind
from marlin_ckpt.reports import FailedSave, SaveReport
from marlin_ckpt.saving.engine import Engine
from marlin_ckpt.saving.job import Form, How, Job
from marlin_ckpt.saving.recording import Attempt, Recording
from marlin_ckpt.saving.writing.choosing import has_parts
from marlin_ckpt.storage.paths import make_directory

_MOST_FAILED = 1000  # that are remembered for somebody who may never ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A state that is to be saved.

    Attributes:
        state: what is saved.
        describe: makes the manifest, once it is this save's turn.
        must_be_made: whether it waits for the save before it, whatever `when_busy` says.
        is_model: whether it is the state of a module alone, which is one file.
        makes_plain: whether values that `weights_only` refuses are saved as plain ones.
        gives_up: whether it is only logged that a tensor has changed while it was copied; see `Job`.
        on_durable: told of the file when it is durable, at each rank.
        complete: adds to the state of rank 0 what the other ranks have, where it saves for all of them; all
            ranks call it.
        make_directory: makes the directory that it goes to.
    """

    state: Any
    describe: Callable[[], Manifest]
    must_be_made: bool = True
    is_model: bool = False
    makes_plain: bool = True
    gives_up: bool = True
    on_durable: Callable[[SaveReport], None] = lambda _: None
    complete: Callable[[Any, Ranks], Any] = lambda state, _: state
    make_directory: Callable[[PathText], None] = make_directory


class RunSaves:
    """Saves a run's states under its names, and keeps to its rules of retention.

    The ranks of a process group save together: each calls the same, and rank 0 alone removes and records.

    Attributes:
        lineage: of the run.
        engine: that writes.
        keeper: removes old checkpoints, after each save and when the disk is full.
        lease: of the directory, while a trainer holds it.
        save_s: how long the last checkpoint took until it was durable, in seconds; None before the first.
        failed: the saves that `on_save_error: warn` passed over, the last ones of many.
        recording: of the history of `save_dir`.
        sharing: says what saves share with earlier files.
    """

    def __init__(self, logger: logging.Logger, by: str = "") -> None:
        """Takes what logs, and by what name the history has what saves; see `Recording`."""
        self.recording = Recording(by)
        self.lineage, self.engine = self.recording.lineage, Engine(logger, is_together=None)
        self.keeper = Keeper(logger, lambda args, gone: self.recording.removed(args.save_dir, gone, "keep"))
        self.lease: Lease | None = None
        self.save_s: float | None = None
        self.failed: deque[FailedSave] = deque(maxlen=_MOST_FAILED)
        self._logger = logger
        self._neighbours, self.sharing = Neighbours(logger), RunSharing(self.keeper, logger)
        self._swept: set[PathText] = set()

    def register(self, args: DefaultCheckpointerArguments, *optimizers: Optimizer) -> None:
        """Names optimizers whose parameters and state nothing but their `step` changes."""
        self.lineage.optimizers.update(optimizers)
        if args.async_save and args.overlap:
            self.engine.register(*optimizers)

    def meet(self, args: DefaultCheckpointerArguments) -> Ranks:
        """The ranks that save together, over a group of their own; all of them call this.

        Args:
            args: how long one waits for the others.

        Raises:
            RankError: another rank does not come.
        """
        crew = self.engine.crew
        if crew.form(duration_of(args.save_timeout)):
            self.lineage.run_id = crew.here.told(self.lineage.run_id)
            self.recording.is_silent = not crew.here.is_main
        return crew.here

    def save(self, args: DefaultCheckpointerArguments, wanted: Request) -> str | None:
        """Saves a state.

        Args:
            args: where and how.
            wanted: what.

        Returns:
            the path of the file; None where it was skipped, or failed and `on_save_error` is `warn`.

        Raises:
            As `DefaultCheckpointer.save` does.
        """
        attempts: list[Attempt] = []
        args = copy.copy(args)
        try:
            with self.engine.turn.taken():
                try:
                    job = self._begun(args, wanted, attempts)
                    if not self.engine.save(job):
                        return None
                except Exception as error:
                    for one in attempts:
                        one.has_failed(error)
                    raise
                self.lineage.saves += job.how.async_save
            self.engine.raise_earlier()
        except (StorageError, UnsavableStateError, RankError) as error:
            if not _is_passed_over(args, error):
                raise
            self._pass_over(attempts[0].path if attempts else "", error)
            return None
        return job.path

    def _begun(self, args: DefaultCheckpointerArguments, wanted: Request, attempts: list[Attempt]) -> Job:
        """Prepares all but the state; the attempt is added once the path is known."""
        crew = self.engine.crew
        if crew.is_together is None and (args.layout == "sharded" or has_parts(wanted.state)):
            crew.is_together = True
        ranks = self.meet(args)
        form = self.engine.form(wanted.state, "file" if wanted.is_model else layout_in(args))

        def begin() -> Job:
            manifest = wanted.describe()
            path = _place(args, manifest, form)[0]
            attempts.append(Attempt(self.recording, args.save_dir, path, manifest))
            return self._job(args, wanted, manifest, attempts[0], form)

        job = crew.done(begin)
        crew.check_shared(os.path.dirname(job.path))
        if ranks.world_size > 1 and form is not Form.SHARDED:
            job = replace(job, state=wanted.complete(job.state, ranks))
        return job

    @contextlib.contextmanager
    def transaction(
        self,
        args: DefaultCheckpointerArguments,
        name: str,
        index: int,
        metrics: Mapping[str, Any] | None,
        on_durable: Callable[[SaveReport], None],
    ) -> Iterator[str]:
        """Saves a folder that the block fills; a save under way ends before it is published.

        Args:
            args: where.
            name: of the folder.
            index: for its manifest.
            metrics: for its manifest.
            on_durable: told of the folder when it is durable.

        Yields:
            the path of the folder under its temporary name.

        Raises:
            As `Transaction` does; and what an earlier save has failed with in the background, afterwards.
        """
        describe = partial(self.lineage.manifest, Kind.CHECKPOINT, index, metrics, {}, {})
        own = FolderLayout().read_name(name)
        is_ruled = own is not None and own.prefix == args.file_prefix
        with self.engine.turn.taken():
            whole = Transaction(args.save_dir, name, manifest=describe())
            if own is not None and is_ruled:
                make_directory(args.save_dir)
                self._neighbours.saving(os.fspath(args.save_dir), own, self.lineage.run_id, args.file_ext)
        attempt = Attempt(self.recording, args.save_dir, whole.path, whole.manifest)
        with contextlib.ExitStack() as stack:
            with attempt.watched(), whole as staging:
                self.recording.begin(args.save_dir, args)
                yield staging
                stack.enter_context(self.engine.alone())
                whole.manifest = describe()  # with the number and the time that it has by now
            self.lineage.saves += 1
            if whole.report is not None:
                attempt.is_durable(whole.report, whole.manifest)
                if is_ruled:
                    self.keeper.saved(args, whole.path, whole.manifest.run_id, set(whole.report.metrics))
                on_durable(whole.report)
        self.engine.raise_earlier()

    def _pass_over(self, path: str, error: MarlinError) -> None:
        text = str(error)  # a handler that keeps records would keep the state with the error
        if self.engine.crew.here.is_main:
            self._logger.error("Not saved: %s", text)
        self.failed.append(FailedSave(path, text))

    def _job(
        self,
        args: DefaultCheckpointerArguments,
        wanted: Request,
        manifest: Manifest,
        attempt: Attempt,
        form: Form,
    ) -> Job:
        is_model, is_main = manifest.kind is Kind.MODEL, self.engine.crew.here.is_main
        path, directory, name = _place(args, manifest, form)
        if is_main:
            self._make_way(args, wanted, name, directory, manifest.run_id)
        on_durable = wanted.on_durable

        def durable(report: SaveReport) -> None:
            self.lineage.saves += not args.async_save  # it has its number, whatever `on_durable` raises
            if is_main:
                attempt.is_durable(report)
            if not is_model:
                self.save_s = report.stall_s + report.copy_s + report.write_s + report.sync_s
            if not is_model and is_main:
                self.keeper.saved(args, report.path, manifest.run_id, set(manifest.metrics))
            on_durable(report)

        def failed(error: Exception) -> None:
            attempt.has_failed(error)
            if not (isinstance(error, MarlinError) and _is_passed_over(args, error)):
                raise error
            self._pass_over(path, error)

        return Job(
            path=path,
            state=wanted.state,
            manifest=manifest,
            how=How(args.async_save, args.overlap, args.check_overlap, args.statistics),
            form=form,
            may_skip=args.async_save and args.when_busy == "skip" and not wanted.must_be_made,
            gives_up=wanted.gives_up,
            makes_plain=wanted.makes_plain,
            sharing=self.sharing.of(args, path, manifest),
            make_room=lambda: self.keeper.make_room(args, manifest.run_id),
            on_durable=durable,
            on_given_up=attempt.is_given_up,
            on_error=failed,
        )

    def _make_way(
        self,
        args: DefaultCheckpointerArguments,
        wanted: Request,
        name: FileName,
        directory: PathText,
        run_id: str,
    ) -> None:
        """Makes the directory ready for a save."""
        if self.lease is not None:
            self.lease.follow()
        wanted.make_directory(directory)
        if directory not in self._swept:
            self._swept.add(directory)
            leftovers.sweep(os.fspath(directory), self._logger)
        self._neighbours.saving(os.fspath(directory), name, run_id, args.file_ext)
        self.recording.begin(args.save_dir, args)


def _is_passed_over(args: DefaultCheckpointerArguments, error: MarlinError) -> bool:
    """Whether a run goes on after a save has failed so; alike at all ranks."""
    return args.on_save_error == "warn" and not (isinstance(error, RankError) and error.is_foreign)


def _place(
    args: DefaultCheckpointerArguments, manifest: Manifest, form: Form
) -> tuple[str, PathText, FileName]:
    """The path that a state is saved to, its directory as the arguments have it, and its name."""
    directory = (manifest.kind is Kind.MODEL and args.model_state_save_dir) or args.save_dir
    extension = SHARDS if form is Form.SHARDED else args.file_ext
    name = FileName(args.file_prefix, manifest.index, extension, manifest.kind)
    return os.path.join(directory, str(name)), directory, name
