"""The checkpointer for one directory, of one process or of ranks that save together."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch.optim import Optimizer

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpoint import Checkpoint, checked_index
from marlin_ckpt.checkpointer import beginning, run_events
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.checkpointer.hooks import TrainerHooks
from marlin_ckpt.checkpointer.run_saves import Request, RunSaves
from marlin_ckpt.directory import latest, notes
from marlin_ckpt.directory.remote.reaching import reach
from marlin_ckpt.directory.removing import Removal
from marlin_ckpt.distributed import launch
from marlin_ckpt.distributed.failures import together
from marlin_ckpt.distributed.ranks import Ranks, shared
from marlin_ckpt.errors import ArgumentsError, Fault
from marlin_ckpt.escaping import OwnLogger, get_logger
from marlin_ckpt.fields import PathText, check_again
from marlin_ckpt.loading.load import CheckpointRestoration, Loader
from marlin_ckpt.naming import Kind
from marlin_ckpt.reports import FailedSave, SaveReport
from marlin_ckpt.saving.closing import Closing
from marlin_ckpt.saving.writing.choosing import with_all_ranks
from marlin_ckpt.storage.paths import make_directory

_LOGGER_NAME = "marlin_ckpt.checkpointer"


class DefaultCheckpointer(Closing, TrainerHooks, AbstractCheckpointer):
    """Saves to and loads from `{file_prefix}_{index}.{file_ext}` in directories, or in an object store.

    The ranks of a process group load together, and they save together what holds DTensors, or anything with
    `layout: sharded`: all make the same calls, and what fails at one is raised at all. When `save` returns,
    the file is durable, and a kill at any instant leaves older files whole. With `async_save` call `close`,
    or use a `with` statement, to wait for the last save and see its error.

    Attributes:
        args: the arguments. Each call checks and obeys them as they are then.
        loaded_path: what `load` has loaded last, or "".
        is_alone: whether this process saves and loads by itself; a trainer of one process sets it.
        is_shared: whether all ranks save together from the beginning; a trainer of many sets it.
    """

    is_alone, is_shared, loaded_path, _checked = False, False, "", b""

    def __init__(self, args: DefaultCheckpointerArguments) -> None:
        """Takes the arguments; `delete_existing_checkpoints` removes old checkpoints now.

        Removed are regular files right in `save_dir` whose extension is `file_ext`; failures are logged.

        Args:
            args: what to save, when, where and how.

        Raises:
            ArgumentsError: the arguments are wrong.
            DirectoryInUseError: files of `save_dir` are to be removed, and another run saves there.
        """
        self.args = args
        self.logger = OwnLogger(_LOGGER_NAME)
        self._saves = RunSaves(self.logger)
        self._obey()
        if args.delete_existing_checkpoints and launch.is_main():
            beginning.empty(args, self.run_id, self.logger)

    @property
    def run_id(self) -> str:
        """The id of this run; `load` takes it from the file, since a resumed run is the same run."""
        return self._saves.lineage.run_id

    @run_id.setter
    def run_id(self, run_id: str) -> None:
        self._saves.lineage.run_id = run_id

    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        """Saves the states if `checkpoint` is set and the `period` says so, or if forced.

        Args:
            checkpoint_state: the states and metrics.
            index: the epoch or step, 0 or more.
            force: save whatever the period says.

        Returns:
            the path of the file, which is durable, or with `async_save` will be when `wait` returns. None if
            no save was due, or if it failed and `on_save_error` is `warn`.

        Raises:
            ArgumentsError: the arguments, the index or a metric is wrong.
            UnsavableStateError: the states cannot be pickled; the message says where.
            StorageError: the file cannot be written. The older file of that name is unchanged; or, if the
                system can neither sync the new name nor take it back, the new file is there, whole.
            MarlinError: the error of an earlier save in the background; this one has begun.
        """
        self._obey()
        index = checked_index(index)
        if not self.args.checkpoint or not (force or self._is_due(index)):
            return None
        if not isinstance(checkpoint_state, Checkpoint):
            kind = type(checkpoint_state).__qualname__
            raise ArgumentsError([Fault("checkpoint_state", f"expected a Checkpoint, not a {kind}")])
        payload, modules = checkpoint_state.payload(), checkpoint_state.module_interface_state
        manifest = partial(self._saves.lineage.manifest, Kind.CHECKPOINT, index, checkpoint_state.metrics)
        describe = partial(manifest, payload, modules)
        wanted = Request(state=payload, describe=describe, must_be_made=force, complete=with_all_ranks)
        return self._save(wanted)

    def save_model(self, model_state: Any, index: int) -> str | None:
        """Saves the module's state alone, if `checkpoint` and `model_state_save_dir` are set.

        Args:
            model_state: what `ModuleInterface.get_state` returned.
            index: the epoch or step, 0 or more.

        Returns:
            the path of the file, as `save` does.

        Raises:
            MarlinError: as `save`.
        """
        self._obey()
        index = checked_index(index)
        if not (self.args.checkpoint and self.args.model_state_save_dir):
            return None
        describe = partial(self._saves.lineage.manifest, Kind.MODEL, index, None, {}, {})
        return self._save(Request(state=model_state, describe=describe, is_model=True))

    def load(self, into: Checkpoint | None = None) -> Checkpoint:
        """Loads what `load_dir` and `load_filename` say, and checks every byte.

        Without `load_filename` it loads the newest intact file; others are passed over, and the log says why.
        Under a process group all ranks call this: they load the same, or raise the same error.
        Where PyMarlin's documentation says None this returns an empty `Checkpoint`, as PyMarlin's code does.

        Args:
            into: live modules, optimizers, tensors and other objects with `load_state_dict`, in dicts and
                lists arranged as the states in the file: `Checkpoint(module, {"optimizer": optimizer})`.
                Keys, shapes and dtypes are compared before anything is changed; an object of your own may
                have a method `check_state_dict` for this. Then the file is read straight into the existing
                tensors, and `load_state_dict` of each object is called. A tensor of another dtype is
                converted, with a warning in the log. Without `into`, or for a state that it does not name,
                tensors are loaded to the CPU.

        Returns:
            the states and metrics; an empty `Checkpoint` without a `load_dir`, or if it has no checkpoint.

        Raises:
            ArgumentsError: the arguments are wrong.
            CheckpointNotFoundError: there is no `load_filename`.
            StorageError: the file cannot be read.
            BadFileError: `load_filename`, or every file in `load_dir`, is corrupt, refused as unsafe, or no
                checkpoint. After a CorruptCheckpointError the contents of the tensors of `into` are
                undefined, since the damage may be found when half of them are read.
            StateMismatchError: a state does not fit its object.
            RankError: another rank has ended, or did not answer in time.
        """
        self._obey()
        ranks = Ranks.alone() if self.is_alone else shared()
        together(ranks, self.wait)
        restoration = None if into is None else CheckpointRestoration(into)
        loaded = Loader(self.args, self.logger, restoration, ranks, self._saves.sharing.reads).load()
        self.loaded_path = os.fspath(loaded.path or "")
        if loaded.path:
            self._saves.recording.continues(loaded.path, loaded.manifest, loaded.passed_over)
            self._saves.sharing.has_read(self.args, loaded.path)
        return loaded.checkpoint

    def wait(self) -> None:
        """Waits until everything that was saved is durable.

        Raises:
            MarlinError: the error of a save in the background that was not raised before.
        """
        self._saves.engine.wait()

    def close(self) -> None:
        """Waits as `wait` does and frees the memory for copies; a later save takes it again."""
        self._saves.engine.close()

    def register(self, *optimizers: Optimizer) -> None:
        """Names optimizers whose parameters and state only their `step` changes.

        Files then have the names of their parameters, so that a load into an optimizer with another order is
        refused. With `async_save` and `overlap` they are copied while training goes on, and the next step
        waits for the rest of the copy. An optimizer that was not named is known from its first step after
        such a save.
        """
        self._saves.register(self.args, *optimizers)

    def check_space(self, state: Checkpoint, optimizers: Iterable[Optimizer], indices: int) -> None:
        """Raises if the state cannot be saved, or `save_dir` has no room for the checkpoints of the run.

        The room is not checked if the argument `check_space` is False.

        Args:
            state: what would be saved now.
            optimizers: the optimizers whose states are in it; these grow at the first step.
            indices: how many indices the run will go through.

        Raises:
            UnsavableStateError: the state cannot be pickled; the message says where.
            StorageError: there is too little room.
        """
        if self.args.checkpoint:
            self._obey()
            beginning.check(self.args, self._saves, state, optimizers, indices)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A context that holds the lease of `save_dir`, so that no second trainer saves there.

        Raises:
            DirectoryInUseError: another run holds the lease.
            StorageError: the directory cannot be made.
        """
        if not (self.args.checkpoint and (self.is_alone or launch.is_main())):
            yield
            return
        with beginning.leased(self.args, self.run_id) as self._saves.lease:
            yield

    def overhead(self) -> float:
        """The share of the run's time, 0 to 1, that saves have taken: waiting, and slower steps meanwhile."""
        return self._saves.engine.pace.share()

    def take_reports(self) -> list[SaveReport]:
        """The reports of the saves that became durable since the last call."""
        taken = self._saves.engine.take_reports()
        if taken and self._saves.lease is not None and self._saves.save_s is not None:
            notes.note_save(os.fspath(self.args.save_dir), self._saves.save_s)
        return taken

    def usual_save_s(self) -> float | None:
        """How long the last save into `save_dir` took until it was durable, in seconds; None if not known."""
        known_s = self._saves.save_s
        return notes.save_seconds(os.fspath(self.args.save_dir)) if known_s is None else known_s

    def on_run_event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Writes what happens in a training into the history of `save_dir`, from `started` on."""
        if self.args.checkpoint:
            run_events.record(self._saves.recording, self.args, kind, facts)

    def removed(self) -> list[Removal]:
        """What `keep` has removed since this checkpointer was made, with the reasons; the last 1,000."""
        return list(self._saves.keeper.removed)

    def failed_saves(self) -> list[FailedSave]:
        """The saves that failed and that `on_save_error: warn` passed over, in order; the last 1,000."""
        return list(self._saves.failed)

    @staticmethod
    def get_latest_file(
        load_dir: PathText, file_prefix: str, file_ext: str = "pt", logger: logging.Logger | None = None
    ) -> str:
        """The path of the checkpoint with the greatest index; see `marlin_ckpt.get_latest_file`."""
        return latest.get_latest_file(load_dir, file_prefix, file_ext, logger or get_logger(_LOGGER_NAME))

    def check_mk_dir(self, dirpath: PathText) -> None:
        """Makes a directory and its parents if it is missing.

        Raises:
            StorageError: the path is a file, or the directory cannot be made.
        """
        make_directory(dirpath)

    def _obey(self) -> None:
        self._checked = check_again(self.args, self._checked)
        reach(self.args)
        is_heard = not self.is_shared or launch.is_main()  # else all ranks say the same
        self.logger.setLevel(self.args.log_level if is_heard else logging.CRITICAL)
        if self.is_alone or self.is_shared:
            self._saves.engine.crew.is_together = self.is_shared

    def saves_together(self, state: Any) -> bool:  # noqa: ARG002 - the hook's
        """Whether all ranks of a training are to call `save` and `save_model`."""
        return self.is_shared

    def _is_due(self, index: int) -> bool:
        """As rank 0 decides, whose clock it is."""
        found = self.is_due(index)
        return bool(self._saves.meet(self.args).told(found)) if self.args.period == "auto" else found

    def is_due(self, index: int) -> bool:
        """Whether `save` would save under this index without being forced; ranks may differ."""
        if not self.args.checkpoint:
            return False
        if self.args.period != "auto":
            return index % self.args.period == 0
        hours = self.args.mean_time_between_failures_hours
        return self._saves.engine.pace.is_due(self.args.max_overhead, None if hours is None else hours * 3600)

    def _save(self, wanted: Request) -> str | None:
        return self._saves.save(self.args, replace(wanted, make_directory=self.check_mk_dir))
