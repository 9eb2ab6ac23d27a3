"""Finds the checkpoint that is to be loaded, and loads it."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from marlin_ckpt import errors
from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.directory import latest, leftovers
from marlin_ckpt.directory.newest import newest_intact
from marlin_ckpt.distributed.loading import agreed, check_same, newest_agreed
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.entries import Entry
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.content.payload import other_content
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.loading.payload import check_payload
from marlin_ckpt.loading.restoring import Pair, Restoration
from marlin_ckpt.loading.together import How, read_together
from marlin_ckpt.loading.words import PREFIX_HINT
from marlin_ckpt.storage.paths import absolute


class Loaded(NamedTuple):
    """A checkpoint.

    Attributes:
        checkpoint: an empty one where none was found.
        manifest: of the file, if it has one.
        path: of the file; "" where none was found.
        passed_over: the paths of newer ones that are bad, with the reasons.
    """

    checkpoint: Checkpoint
    manifest: Manifest | None = None
    path: str = ""
    passed_over: Mapping[str, str] = MappingProxyType({})


class CheckpointRestoration(Restoration):
    """A restoration of the three states of a checkpoint, in which None says that nothing was saved."""

    def __init__(self, into: Checkpoint) -> None:
        """Takes the live objects; see `DefaultCheckpointer.load`."""
        super().__init__(into.payload())

    def _is_passed_over(self, saved: Any) -> bool:
        return saved is None

    def _is_ignored(self, saved: Any, live: Any) -> bool:
        del saved, live
        return True

    def _prefix_hint(self, prefix: str) -> str:
        del prefix
        return PREFIX_HINT


@dataclass(frozen=True)
class Loader:
    """Loads once; see `DefaultCheckpointer.load`.

    Attributes:
        args: what to load.
        logger: is told what is passed over.
        restoration: of live objects; None: the states are only returned.
        ranks: which load together: all of them load the same, or raise the same.
        on_reading: told the arguments, and the path of what is read next, in full.
    """

    args: DefaultCheckpointerArguments
    logger: logging.Logger
    restoration: Restoration | None
    ranks: Ranks = field(default_factory=Ranks.alone)
    on_reading: Callable[[DefaultCheckpointerArguments, str], None] = lambda *_: None

    def load(self) -> Loaded:
        """Loads, and restores the live objects of the restoration.

        Raises:
            As `DefaultCheckpointer.load` does.
        """
        load_dir, filename = self.args.load_dir, self.args.load_filename
        if self.args.resume_from:
            load_dir, filename = os.path.split(self.args.resume_from)
            load_dir = load_dir or os.curdir
        which = "" if filename else f"the newest {self.args.file_prefix}"
        check_same(self.ranks, os.path.join(load_dir or "", filename or ""), which)
        if not load_dir or not os.fspath(load_dir):
            if filename:
                self.logger.warning("load_filename %s is ignored, since load_dir is not set.", filename)
            return Loaded(Checkpoint())
        goes_on = self.args.checkpoint and absolute(load_dir) == absolute(self.args.save_dir)
        if goes_on and self.ranks.is_main:
            leftovers.settle(os.fspath(load_dir))
        if not filename or not os.fspath(filename):
            return self._load_newest(load_dir)
        try:
            return self._read(os.path.join(load_dir, filename))
        except errors.CorruptCheckpointError as error:
            with contextlib.suppress(errors.MarlinError):  # this error counts, whatever ends the search
                if intact := newest_intact(lambda: self._candidates(load_dir)):
                    error.hint = f"the newest intact checkpoint is {intact.path}"
            raise

    def _candidates(self, load_dir: PathText) -> Iterator[Entry]:
        return latest.newest_first(load_dir, self.args.file_prefix, self.args.file_ext, self.logger)

    def _load_newest(self, load_dir: PathText) -> Loaded:
        passed_over: dict[str, str] = {}
        found = newest_agreed(
            self.ranks,
            lambda: self._candidates(load_dir),
            self._attempt,
            self.logger,
            passed_over.__setitem__,
        )
        if found is None:
            self.logger.info("No checkpoint found under %s.", os.fspath(load_dir))
        return Loaded(Checkpoint()) if found is None else found._replace(passed_over=passed_over)

    def _attempt(self, entry: Entry) -> Loaded:
        if entry.layout and (other := other_content(entry)):
            raise errors.NotACheckpointError(f"not a checkpoint but {other}", entry.path)
        try:
            return self._read(entry.path)
        except (errors.UnsafeCheckpointError, errors.UnloadableStateError):
            if other := other_content(entry):  # nor would it be a checkpoint if it could be loaded
                raise errors.NotACheckpointError(f"not a checkpoint but {other}", entry.path) from None
            raise

    def _read(self, path: str) -> Loaded:
        self.logger.debug("Loading checkpoint %s", path)
        self.on_reading(self.args, path)

        def pairs(payload: Any, manifest: Manifest | None) -> Iterable[Pair]:
            check_payload(payload, manifest, path)
            return () if self.restoration is None else self.restoration.pairs(payload, manifest, path)

        restoration, ranks = self.restoration, self.ranks
        how = How(weights_only=self.args.weights_only, log=self.logger.warning, pairs=pairs)
        payload, manifest = read_together(path, ranks, how, None if restoration is None else restoration.into)
        if restoration is not None:
            agreed(ranks, lambda: restoration.finish(payload, path))
            for note in restoration.notes if ranks.is_main else ():
                self.logger.warning("%s: %s", note, path)
        if manifest is not None:
            if manifest.lost:
                self.logger.warning("%s was salvaged and lacks %s.", path, ", ".join(manifest.lost))
            payload["metrics"] = dict(manifest.metrics)
        return Loaded(Checkpoint(**payload), manifest, path)
