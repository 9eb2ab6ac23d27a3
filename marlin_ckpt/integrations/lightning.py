"""Checkpoints of Lightning and Fabric: `Trainer(plugins=[MarlinCheckpointIO()])`."""

import functools
import os
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from marlin_ckpt.directory.newest import newest_beside
from marlin_ckpt.errors import CorruptCheckpointError, NotACheckpointError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.integrations.lightning_private import adapt
from marlin_ckpt.loading.anything import load
from marlin_ckpt.saving.afterwards import Afterwards
from marlin_ckpt.saving.copying.owners import KnownOptimizers
from marlin_ckpt.saving.saver import Saver
from marlin_ckpt.storage.paths import look
from marlin_ckpt.urls import is_url

# Of Lightning's two packages the one that was imported already, or that is there: both take seconds.
_IS_SPLIT = {*sys.modules} & {"lightning", "lightning_fabric"} == {"lightning_fabric"}
_FABRIC = "lightning.fabric" if find_spec("lightning") and not _IS_SPLIT else "lightning_fabric"
_plugins: Any = import_module(f"{_FABRIC}.plugins")
_LAST = re.compile(r"last(-v[0-9]+)?\.ckpt")  # as ModelCheckpoint names it, with its counter of versions
_WHY = "its callback keeps no more"
_logger = get_logger(__name__)


class MarlinCheckpointIO(_plugins.TorchCheckpointIO):
    """Saves checkpoints that are durable, whole and have checksums, and compares these when it loads.

    It works with Lightning, pytorch_lightning and Fabric. A path is a local one or, where boto3 is installed,
    `s3://bucket/prefix/name.ckpt`; any other is left to Lightning's own plugin, with a warning.
    `afterwards` holds what is to be done when a save is durable.
    """

    def __init__(self, *, async_save: bool = False, share_unchanged: bool = False, **how: Any) -> None:
        """Sets how to save.

        Args:
            async_save: write while training goes on. When a training ends, and outside of one, saves are
                durable when they return.
            share_unchanged: let files share large tensors that have not changed; as for `marlin_ckpt.Saver`.
            how: `overlap` and `check_overlap`, as for `marlin_ckpt.Saver`.
        """
        super().__init__()
        self.afterwards = Afterwards(lambda *gone: self._saver.recording.dropped([gone], _WHY))
        how = {"share_unchanged": share_unchanged, **how}
        self._made_with = {"async_save": async_save, **how}
        self._saver = Saver(asynchronous=async_save, as_is=True, on_durable=self.afterwards.durable, **how)
        self._saver.is_going = lambda path: path in self._dropped or self.afterwards.is_going(path)
        self._saver.recording.by = "Lightning"
        self._saver.register()  # watches for steps, so that the first save overlaps, too
        self._stepped = KnownOptimizers(lambda: None)
        self._stepped.watch()
        self._has_saved = self._has_warned = False
        self._latest: tuple[Any, dict[str, float]] = (None, {})
        self._best: set[str] = set()  # that the callbacks keep
        self._dropped: set[str] = set()  # and those that they remove once the save returns
        adapt(MarlinCheckpointIO)

    def __reduce__(self) -> Any:  # strategies that spawn processes pickle it
        return functools.partial(type(self), **self._made_with), ()

    def save_checkpoint(self, checkpoint: Any, path: PathText, storage_options: Any = None) -> None:
        """Saves a checkpoint, with what ModelCheckpoint monitors in its manifest; raises as `Saver.save`."""
        if storage_options is not None or (local := self._local(path)) is None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        step, metrics = self._facts(checkpoint, str(path))
        self.afterwards.begin(local)
        self._has_saved, self._saver.history = True, os.path.dirname(local)
        self._saver.save(checkpoint, local, metrics=metrics, index=step)
        if not list(self._stepped.known):  # no training is under way
            self._wait()

    def load_checkpoint(
        self, path: PathText, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> Any:
        """Loads a checkpoint and compares every checksum; of a directory, the newest intact one.

        If `last.ckpt` is damaged, the newest intact file beside it is loaded instead, with a warning.

        Raises:
            CorruptCheckpointError: the file is damaged; the hint names the newest intact one.
            MarlinError: as `marlin_ckpt.load`.
        """
        self._wait()
        if (local := self._local(path)) is None:
            return super().load_checkpoint(path, map_location, weights_only)
        if weights_only is None:  # as torch.load
            weights_only = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") not in {"1", "y", "yes", "true"}
        read = functools.partial(load, map_location=map_location, weights_only=weights_only)
        passed_over: dict[str, str] = {}
        try:
            state = read(local)
        except (CorruptCheckpointError, NotACheckpointError) as error:
            passed_over[local] = error.what
            if not (intact := newest_beside(local, passed_over.__setitem__)):
                raise
            if not _LAST.fullmatch(os.path.basename(local)):
                error.hint = f"the newest intact checkpoint is {intact}"
                raise
            _logger.warning("Passed over: %s; %s is loaded in its place.", error, intact)
            local, state = intact, read(intact)
        if not self._has_saved and (found := look(local)) and not found.is_folder:
            self._saver.continue_run(local)
            self._saver.recording.passes_over(passed_over)
        return state

    def remove_checkpoint(self, path: PathText) -> None:
        """Removes a checkpoint, once the save in the background is durable and no link leads to the file."""
        local = self._local(path)
        super().remove_checkpoint(path) if local is None else self.afterwards.remove(local)

    def teardown(self) -> None:
        """Waits until all saves are durable; a Trainer calls it at the end, with Fabric you call it."""
        try:
            self._wait(is_last=True)
        finally:
            self._saver.close()
            self._saver.register()
            self._stepped.known.clear()

    def _wait(self, *, is_last: bool = False) -> None:
        try:
            self._saver.wait()
        except BaseException:
            self.afterwards.give_up()
            raise
        self.afterwards.all_durable(is_last=is_last)

    def _local(self, path: PathText) -> str | None:
        if is_url(path) and find_spec("boto3"):
            return path
        system, local = url_to_fs(str(path))
        if isinstance(system, LocalFileSystem):
            return str(local)
        if not self._has_warned:
            _logger.warning("%s is not a local path: left to Lightning, without checksums.", path)
        self._has_warned = True
        return None

    def _facts(self, checkpoint: Any, path: str) -> tuple[int | None, dict[str, float]]:
        step, callbacks, metrics = checkpoint.get("global_step"), checkpoint.get("callbacks"), {}
        earlier, self._best = self._best, set()
        for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
            best = state.get("best_k_models", {}) if isinstance(state, Mapping) else {}
            self._best.update(best)
            if path in best and state.get("monitor"):
                metrics[state["monitor"]] = float(best[path])
        self._dropped = earlier - self._best
        metrics = metrics or (self._latest[1] if step == self._latest[0] else {})  # as of last.ckpt
        self._latest = step, metrics
        return (step if isinstance(step, int) else None), metrics
