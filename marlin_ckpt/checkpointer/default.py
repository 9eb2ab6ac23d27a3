"""The checkpointer for one process and one directory."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from torch.optim import Optimizer

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpoint import Checkpoint, checked_index
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.checkpointer.hooks import TrainerHooks
from marlin_ckpt.checkpointer.run_saves import Request, RunSaves
from marlin_ckpt.directory import latest, lease, leftovers, needed_space, notes
from marlin_ckpt.directory.removing import Removal
from marlin_ckpt.errors import ArgumentsError, Fault
from marlin_ckpt.escaping import OwnLogger, get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.loading.load import CheckpointRestoration, Loader
from marlin_ckpt.naming import Kind
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving import predicted_size
from marlin_ckpt.saving.closing import Closing
from marlin_ckpt.storage.local.publishing import make_directory

_LOGGER_NAME = "marlin_ckpt.checkpointer"


class DefaultCheckpointer(Closing, TrainerHooks, AbstractCheckpointer):
    """Saves to and loads from `{file_prefix}_{index}.{file_ext}` in directories of the local file system.

    A save is reported when the file is durable under its name; a kill at any instant leaves the files before
    it whole. With `async_save` close it, or use it in a `with` statement, to learn of the last save's end.

    Attributes:
        args: obeyed, and checked again, at each call.
    """

    def __init__(self, args: DefaultCheckpointerArguments) -> None:
        """Takes the arguments; with `delete_existing_checkpoints`, empties `save_dir` of checkpoints.

        Removed are the regular files directly in `save_dir` whose extension is exactly `file_ext`. What
        cannot be removed is logged.

        Raises:
            ArgumentsError: the arguments are wrong.
            DirectoryInUseError: `save_dir` is to be emptied, and another run saves there.
        """
        self.args = args
        self.logger = OwnLogger(_LOGGER_NAME)
        self._saves = RunSaves(self.logger)
        self._obey()
        if args.delete_existing_checkpoints:
            if args.load_dir and os.path.abspath(args.load_dir) == os.path.abspath(args.save_dir):
                self.logger.warning("Nothing will be left to load: load_dir is save_dir, which is emptied.")
            with lease.held_where_used([os.fspath(args.save_dir)], self.run_id):
                leftovers.delete_existing(os.fspath(args.save_dir), args.file_ext, self.logger)

    @property
    def run_id(self) -> str:
        """The id of this run; `load` takes over that of the file it loads: a resumed run is the same run."""
        return self._saves.lineage.run_id

    @run_id.setter
    def run_id(self, run_id: str) -> None:
        self._saves.lineage.run_id = run_id

    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        """Saves the states when `checkpoint` is set and the `period` says so, or when forced.

        Args:
            checkpoint_state: the states and metrics.
            index: what to save them under, 0 or more.
            force: save whatever the period says.

        Returns:
            the path of the file, durable when this returns, or with `async_save` when `wait` does; None when
            nothing was to be saved, or when it failed and `on_save_error` is `warn`.

        Raises:
            ArgumentsError: the arguments, the index or a metric is wrong.
            UnsavableStateError: the states cannot be pickled.
            StorageError: the file cannot be written; the older one stands, or, where the system can neither
                sync the new name nor take it back, the new one, whole.
            MarlinError: what an earlier save failed with in the background; this one was begun first.
        """
        self._obey()
        index = checked_index(index)
        if not self.args.checkpoint or not (force or self.is_due(index)):
            return None
        if not isinstance(checkpoint_state, Checkpoint):
            kind = type(checkpoint_state).__qualname__
            raise ArgumentsError([Fault("checkpoint_state", f"expected a Checkpoint, not a {kind}")])
        payload, modules = checkpoint_state.payload(), checkpoint_state.module_interface_state
        manifest = partial(self._saves.lineage.manifest, Kind.CHECKPOINT, index, checkpoint_state.metrics)
        describe = partial(manifest, payload, modules)
        return self._save(Request(state=payload, describe=describe, must_be_made=force))

    def save_model(self, model_state: Any, index: int) -> str | None:
        """Saves the module's state alone, when `checkpoint` and `model_state_save_dir` are set.

        Args:
            model_state: what `ModuleInterface.get_state` returned.
            index: what to save it under, 0 or more.

        Returns:
            the path of the file, as `save` does.

        Raises:
            As `save` does.
        """
        self._obey()
        index = checked_index(index)
        if not (self.args.checkpoint and self.args.model_state_save_dir):
            return None
        describe = partial(self._saves.lineage.manifest, Kind.MODEL, index, None, {}, {})
        return self._save(Request(state=model_state, describe=describe))

    def load(self, into: Checkpoint | None = None) -> Checkpoint:
        """Loads what `load_dir` and `load_filename` say, every byte checked, to the CPU or into live objects.

        Without `load_filename` it is the newest file that is intact: one that is corrupt or something else is
        passed over, and the log says why. PyMarlin's documents say that this returns None without a
        `load_dir`, but its code and its trainer need an empty `Checkpoint`; so that it is here.

        Args:
            into: live modules, optimizers, tensors and other objects with `load_state_dict`, in dicts and
                lists as the file has their states: `Checkpoint(module, {"optimizer": optimizer})`. Keys,
                shapes and dtypes are compared before anything is changed; then the file is read straight
                into the tensors that there are, and each object's `load_state_dict` is called; one of your
                own is asked first, by `check_state_dict` where it has that. Tensors of another dtype are
                converted, which is logged. What is not named here is only returned.

        Returns:
            the states and metrics; an empty `Checkpoint` without a `load_dir`, or when there is no
            checkpoint under it.

        Raises:
            ArgumentsError: the arguments are wrong.
            CheckpointNotFoundError: `load_filename` is not there.
            StorageError: the file cannot be read.
            NotACheckpointError, CorruptCheckpointError, UnsafeCheckpointError: the content of
                `load_filename`, or of every file under `load_dir`, is bad. After a CorruptCheckpointError the
                tensors of `into` hold anything: the damage may come to light when half of them are read.
            StateMismatchError: a state does not fit the object that it is for.
        """
        self._obey()
        self.wait()
        restoration = None if into is None else CheckpointRestoration(into)
        loaded = Loader(self.args, self.logger, restoration).load()
        self._saves.lineage.continues(loaded.manifest, loaded.path)
        return loaded.checkpoint

    def wait(self) -> None:
        """Waits until the save under way is durable.

        Raises:
            MarlinError: what it failed with in the background, unless that was raised before.
        """
        self._saves.engine.wait()

    def close(self) -> None:
        """Waits as `wait` does, and gives the memory for copies back; a later save takes it anew."""
        self._saves.engine.close()

    def register(self, *optimizers: Optimizer) -> None:
        """Names optimizers whose parameters and state nothing but their `step` changes.

        Files say which parameters these have, so that a load into an optimizer that has them in another order
        is refused.
        With `async_save` and `overlap` these are copied while training goes on, and the next step waits for
        the rest of the copy. An optimizer that was not named is noticed at its first step after such a save.
        """
        self._saves.register(self.args, *optimizers)

    def check_space(self, state: Checkpoint, optimizers: Iterable[Optimizer], indices: int) -> None:
        """Refuses a run whose state cannot be saved, or for whose checkpoints `save_dir` has no room.

        The latter is not asked where `check_space` is off.

        Args:
            state: what would be saved now.
            optimizers: whose states are in it, empty before their first step.
            indices: how many indices the run will go through.

        Raises:
            UnsavableStateError: the state cannot be pickled; where in it stands in the message.
            StorageError: there is too little room.
        """
        if self.args.checkpoint and self.args.on_save_error == "raise":
            self._saves.engine.check(state.payload())
        if self.args.checkpoint and self.args.check_space:
            size_bytes = predicted_size.predicted_bytes(state.payload(), optimizers)
            needed_space.check(self.args, size_bytes, indices, self.run_id)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Holds the lease of `save_dir`, so that no second trainer saves into it.

        Raises:
            DirectoryInUseError: another run holds it.
            StorageError: the directory cannot be made.
        """
        if not self.args.checkpoint:
            yield
            return
        with lease.held(os.fspath(self.args.save_dir), self.run_id) as self._saves.lease:
            yield

    def overhead(self) -> float:
        """The share of the time so far that saves have cost: waiting, and slower steps while one was made."""
        return self._saves.engine.pace.share()

    def take_reports(self) -> list[SaveReport]:
        """The reports of saves that became durable since the last call; notes how long a trainer's take."""
        taken = self._saves.engine.take_reports()
        if taken and self._saves.lease is not None and self._saves.save_s is not None:
            notes.note_save(os.fspath(self.args.save_dir), self._saves.save_s)
        return taken

    def usual_save_s(self) -> float | None:
        """How long the last checkpoint into `save_dir` took until it was durable; None before the first."""
        known_s = self._saves.save_s
        return notes.save_seconds(os.fspath(self.args.save_dir)) if known_s is None else known_s

    def removed(self) -> list[Removal]:
        """What `keep` has removed since this checkpointer was made, with the reasons; the last 1,000."""
        return list(self._saves.keeper.removed)

    @staticmethod
    def get_latest_file(
        load_dir: PathText, file_prefix: str, file_ext: str = "pt", logger: logging.Logger | None = None
    ) -> str:
        """The path of the checkpoint with the greatest index; see `marlin_ckpt.get_latest_file`."""
        logger = logger or get_logger(_LOGGER_NAME)
        return latest.get_latest_file(load_dir, file_prefix, file_ext, logger)

    def check_mk_dir(self, dirpath: PathText) -> None:
        """Makes a directory, with its parents, where it is missing.

        Raises:
            StorageError: the path is a file or cannot be made.
        """
        make_directory(dirpath)

    def _obey(self) -> None:
        self.args.check()
        self.logger.setLevel(self.args.log_level)

    def is_due(self, index: int) -> bool:
        """Whether the period says that it is time to save."""
        if not self.args.checkpoint:
            return False
        if self.args.period != "auto":
            return index % self.args.period == 0
        hours = self.args.mean_time_between_failures_hours
        return self._saves.engine.pace.is_due(self.args.max_overhead, None if hours is None else hours * 3600)

    def _save(self, wanted: Request) -> str | None:
        return self._saves.save(self.args, replace(wanted, make_directory=self.check_mk_dir))
