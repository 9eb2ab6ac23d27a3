"""The checkpointer for one process and one directory."""

from __future__ import annotations

import datetime
import logging
import operator
import os
import platform
import secrets
from collections.abc import Iterable
from typing import Any

import torch

from marlin_ckpt.archive import decoder, saving, verification
from marlin_ckpt.archive.manifest import Manifest
from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.checkpointer.payload import check_payload, plain_metrics
from marlin_ckpt.checkpointer.plain import plain
from marlin_ckpt.checkpointer.restoring import Pair, Restoration
from marlin_ckpt.directory import catalog, pruning
from marlin_ckpt.directory.naming import FileName, Kind
from marlin_ckpt.errors import (
    ArgumentsError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    Fault,
    MarlinError,
    NotACheckpointError,
    UnknownFormatError,
)
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.local import make_directory
from marlin_ckpt.version import __version__

_LOGGER_NAME = "marlin_ckpt.checkpointer"


class DefaultCheckpointer(AbstractCheckpointer):
    """Saves to and loads from `{file_prefix}_{index}.{file_ext}` in directories of the local file system.

    A save is reported when the file is durable under its name; a kill at any instant leaves the files before
    it whole.

    Attributes:
        args: obeyed, and checked again, at each call.
        run_id: of this run; `load` takes over that of the file it loads, since a resumed run is the same run.
    """

    def __init__(self, args: DefaultCheckpointerArguments) -> None:
        """Takes the arguments; with `delete_existing_checkpoints`, empties `save_dir` of checkpoints.

        Removed are the regular files directly in `save_dir` whose extension is exactly `file_ext`. What
        cannot be removed is logged.

        Args:
            args: what to do; see there.

        Raises:
            ArgumentsError: the arguments are wrong.
        """
        self.args = args
        self.run_id = secrets.token_hex(6)
        self.logger = logging.getLogger(_LOGGER_NAME)
        self._saves = 0
        self._swept: set[str] = set()
        self._warned_of: set[str] = set()
        self._obey()
        if args.delete_existing_checkpoints:
            if args.load_dir and os.path.abspath(args.load_dir) == os.path.abspath(args.save_dir):
                self.logger.warning("Nothing will be left to load: load_dir is save_dir, which is emptied.")
            self._delete_existing()

    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        """Saves the states when `checkpoint` is set and the index is a multiple of `period`, or when forced.

        Args:
            checkpoint_state: the states and metrics.
            index: what to save them under, 0 or more.
            force: save whatever the period says.

        Returns:
            the path of the file, durable when this returns; None when nothing was to be saved.

        Raises:
            ArgumentsError: the arguments, the index or a metric is wrong.
            UnsavableStateError: the states cannot be pickled.
            StorageError: the file cannot be written; an older one of its name stands untouched.
        """
        self._obey()
        index = _index(index)
        if not self.args.checkpoint or not (force or index % self.args.period == 0):
            return None
        if not isinstance(checkpoint_state, Checkpoint):
            kind = type(checkpoint_state).__qualname__
            raise ArgumentsError([Fault("checkpoint_state", f"expected a Checkpoint, not a {kind}")])
        metrics = plain_metrics(checkpoint_state.metrics)
        return self._write(self.args.save_dir, Kind.CHECKPOINT, index, checkpoint_state.payload(), metrics)

    def save_model(self, model_state: Any, index: int) -> str | None:
        """Saves the module's state alone, when `checkpoint` and `model_state_save_dir` are set.

        Args:
            model_state: what `ModuleInterface.get_state` returned.
            index: what to save it under, 0 or more.

        Returns:
            the path of the file, durable when this returns; None when nothing was to be saved.

        Raises:
            As `save` does.
        """
        self._obey()
        index = _index(index)
        if not (self.args.checkpoint and self.args.model_state_save_dir):
            return None
        return self._write(self.args.model_state_save_dir, Kind.MODEL, index, model_state, {})

    def load(self, into: Checkpoint | None = None) -> Checkpoint:
        """Loads what `load_dir` and `load_filename` say, every byte checked, to the CPU or into live objects.

        Without `load_filename` it is the newest file that is intact: one that is corrupt or something else is
        passed over, and the log says why. PyMarlin's documents say that this returns None without a
        `load_dir`, but its code and its trainer need an empty `Checkpoint`; so that it is here.

        Args:
            into: live modules, optimizers, tensors and other objects with `load_state_dict`, in dicts and
                lists as the file has their states: `Checkpoint(module, {"optimizer": optimizer})`. Keys,
                shapes and dtypes are compared before anything is changed; then the file is read straight
                into the tensors that there are, and each object's `load_state_dict` is called. Tensors of
                another dtype are converted, which is logged. What is not named here is only returned.

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
        restoration = None if into is None else Restoration(into)
        load_dir, filename = self.args.load_dir, self.args.load_filename
        if not load_dir or not os.fspath(load_dir):
            if filename:
                self.logger.warning("load_filename %s is ignored, since load_dir is not set.", filename)
            return Checkpoint()
        if not filename or not os.fspath(filename):
            return self._load_newest(load_dir, restoration)
        try:
            return self._read(os.path.join(load_dir, filename), restoration)
        except CorruptCheckpointError as error:
            intact = verification.newest_intact(lambda: self._candidates(load_dir))
            error.hint = f"the newest intact checkpoint is {intact}" if intact else error.hint
            raise

    def _candidates(self, load_dir: PathText) -> list[str]:
        return catalog.newest_first(load_dir, self.args.file_prefix, self.args.file_ext)

    def _load_newest(self, load_dir: PathText, restoration: Restoration | None) -> Checkpoint:
        skipped: dict[str, MarlinError] = {}
        while candidates := [path for path in self._candidates(load_dir) if path not in skipped]:
            try:
                return self._read(candidates[0], restoration)
            except CheckpointNotFoundError:
                # Replaced or pruned between the look and the reading: look again.
                self.logger.debug("%s has vanished.", candidates[0])
            except (CorruptCheckpointError, NotACheckpointError, UnknownFormatError) as error:
                skipped[candidates[0]] = error
                self.logger.warning("Passed over: %s", error)
        if skipped:
            newest = next(iter(skipped.values()))
            newest.hint = newest.hint or f"none of {len(skipped)} checkpoints under {load_dir} is intact"
            raise newest
        self.logger.info("No checkpoint found under %s.", os.fspath(load_dir))
        return Checkpoint()

    def _read(self, path: str, restoration: Restoration | None) -> Checkpoint:
        self.logger.debug("Loading checkpoint %s", path)

        def pairs(payload: Any, manifest: Manifest | None) -> Iterable[Pair]:
            check_payload(payload, manifest, path)
            return () if restoration is None else restoration.pairs(payload, path)

        payload, manifest = decoder.read_file(
            path, weights_only=self.args.weights_only, log=self.logger.warning, pairs=pairs
        )
        if restoration is not None:
            restoration.finish(payload, path)
            if restoration.converted:
                self.logger.warning("Converted %s.", ", ".join(restoration.converted))
        if manifest is not None:
            if manifest.lost:
                self.logger.warning("%s was salvaged and lacks %s.", path, ", ".join(manifest.lost))
            self.run_id = manifest.run_id
            self._saves = manifest.save_number
            payload["metrics"] = dict(manifest.metrics)
        return Checkpoint(**payload)

    @staticmethod
    def get_latest_file(
        load_dir: PathText, file_prefix: str, file_ext: str = "pt", logger: logging.Logger | None = None
    ) -> str:
        """The path of the checkpoint with the greatest index; see `marlin_ckpt.get_latest_file`."""
        return catalog.get_latest_file(
            load_dir, file_prefix, file_ext, logger or logging.getLogger(_LOGGER_NAME)
        )

    def check_mk_dir(self, dirpath: PathText) -> None:
        """Makes a directory, with its parents, where it is missing.

        Raises:
            StorageError: the path is a file or cannot be made.
        """
        make_directory(dirpath)

    def _obey(self) -> None:
        self.args.check()
        self.logger.setLevel(self.args.log_level)

    def _delete_existing(self) -> None:
        directory = os.fspath(self.args.save_dir)
        if not os.path.lexists(directory):
            return
        extension = self.args.file_ext
        self.logger.warning("Deleting the files with extension %s in %s.", extension, directory)
        try:
            outcome = pruning.carry_out(pruning.plan_deleting(directory, extension=extension))
        except MarlinError as error:
            self.logger.error("Could not delete checkpoints: %s", error)  # noqa: TRY400 - no news in a traceback
            return
        for failure in outcome.failures:
            self.logger.error("Could not delete %s: %s", failure.path, failure.error)

    def _write(
        self, directory: PathText, kind: Kind, index: int, state: Any, metrics: dict[str, float]
    ) -> str:
        self.check_mk_dir(directory)
        self._sweep(os.fspath(directory))
        name = str(FileName(self.args.file_prefix, index, self.args.file_ext, kind))
        path = os.path.join(directory, name)
        manifest = Manifest(
            kind=kind,
            index=index,
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            run_id=self.run_id,
            save_number=self._saves + 1,
            metrics=metrics,
            versions={
                "marlin_ckpt": __version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        )
        unsafe = saving.write_file(path, plain(state), manifest).refused
        self._saves += 1
        if new := set(unsafe) - self._warned_of:
            self._warned_of |= new
            self.logger.warning(
                "%s will need weights_only: false to load, because it holds %s", path, ", ".join(unsafe)
            )
        self.logger.debug("Saved %s %s", kind, path)
        return path

    def _sweep(self, directory: str) -> None:
        """Removes what dead runs left half written, once a directory: it can be as large as all else."""
        if directory in self._swept:
            return
        self._swept.add(directory)
        try:
            outcome = pruning.carry_out(pruning.plan_sweeping(directory))
        except MarlinError as error:  # a save must not fail for what others left
            self.logger.debug("Did not look for files of dead runs: %s", error)
            return
        for removal in outcome.removed:
            self.logger.warning("Removed %s, left half written by a run that has died.", removal.path)


def _index(index: int) -> int:
    try:
        number = operator.index(index)
    except TypeError:
        number = -1
    if number < 0:
        raise ArgumentsError([Fault("index", f"expected an integer of 0 or more, not {index!r}")])
    return number
