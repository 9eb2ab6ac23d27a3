"""Loads any file that `torch.save`, safetensors or marlin-ckpt wrote: `marlin_ckpt.load`."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch

from marlin_ckpt import errors, urls
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.others.kinds import newest_of_any
from marlin_ckpt.distributed.failures import together, told_by_main
from marlin_ckpt.distributed.loading import agreed, check_same, newest_agreed
from marlin_ckpt.distributed.ranks import Ranks, shared
from marlin_ckpt.distributed.reads.folder import LAYOUTS
from marlin_ckpt.entries import Entry
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch import reader
from marlin_ckpt.formats.torch.placement import MapLocation
from marlin_ckpt.loading.arranging import arrangement_hint, completed, merged, stripped
from marlin_ckpt.loading.lenient import LenientRestoration
from marlin_ckpt.loading.live import is_plain_value
from marlin_ckpt.loading.restoring import Pair, Restoration
from marlin_ckpt.loading.together import How, read_together
from marlin_ckpt.naming import EXTENSIONS
from marlin_ckpt.reports import LoadReport
from marlin_ckpt.storage import paths

_logger = get_logger(__name__)
_FOLDER = ".dcp"  # ends the names of sharded checkpoints of ours


@overload
def load(
    path: PathText,
    *,
    into: Any,
    map_location: MapLocation = "cpu",
    strict: Literal[False],
    strip_prefix: str | None = None,
    weights_only: bool = True,
) -> LoadReport: ...
@overload
def load(
    path: PathText,
    *,
    into: Any = None,
    map_location: MapLocation = "cpu",
    strict: bool = True,
    strip_prefix: str | None = None,
    weights_only: bool = True,
) -> Any: ...
def load(  # noqa: PLR0913 - all but the path are names
    path: PathText,
    *,
    into: Any = None,
    map_location: MapLocation = "cpu",
    strict: bool = True,
    strip_prefix: str | None = None,
    weights_only: bool = True,
) -> Any:
    """Loads a checkpoint, to the CPU or into live objects, and compares every checksum.

    Under a process group all ranks call this for a directory or a sharded checkpoint: they load the same, or
    raise the same error, and each reads what it needs for its parts of live DTensors. A file is loaded by
    whoever calls this, for itself alone.

    Args:
        path: a file that `torch.save`, safetensors or marlin-ckpt wrote, or the folder of a sharded
            checkpoint, of ours or of `torch.distributed.checkpoint`. Or a directory: then the newest intact
            checkpoint in it, or the newest one of a format without checksums. Damaged ones are passed over
            and logged.
        into: a module, an optimizer, a tensor, another object with `load_state_dict`, or dicts, lists and
            tuples of these, arranged as the states in the file. Keys, shapes and dtypes are compared before
            anything is changed. Then the file is read straight into the existing tensors, and
            `load_state_dict` of each object is called. A tensor of another dtype is converted, with a warning
            in the log.
        map_location: where tensors go, as for `torch.load`; with `into`, those that it does not name.
        strict: a state that does not fit is an error. With False, what fits is loaded: of a module each
            tensor by itself, of an optimizer the whole state or nothing.
        strip_prefix: a prefix to remove from names, such as `module.` after a training with DDP: from the
            names of each state that is loaded into a module, or without `into` from the names at the top.
        weights_only: import nothing but tensors and plain values, as `torch.load` does. False runs any code
            that the file names.

    Returns:
        what `torch.load` would return; for a safetensors file a dict of its tensors. With `into` the same,
        with the live objects in place of their states. With `strict=False` a `LoadReport`, whose `state` is
        that. Several ranks leave the tensors of a sharded checkpoint that were saved in pieces, and that no
        live object takes, on the meta device.

    Raises:
        RankError: another rank loads something else, has ended, or did not come within 10 minutes.
        ArgumentsError: an argument is wrong.
        CheckpointNotFoundError: there is no such file, or no checkpoint in the directory.
        StorageError: the file or the directory cannot be read.
        NotACheckpointError: the file is something else.
        UnknownFormatError: a newer marlin-ckpt wrote the file.
        CorruptCheckpointError: bytes are missing or changed. The contents of the tensors of `into` are then
            undefined, since the damage may be found when half of them are read.
        UnsafeCheckpointError: the file needs more than `weights_only` allows; none of its code was run.
        UnloadableStateError: a class that the file names cannot be imported, or a tensor cannot be placed as
            `map_location` says.
        StateMismatchError: a state does not fit its object.
        MarlinError: the names in a directory do not show which checkpoint is the newest, or the newest is a
            folder that another tool has to load.
    """
    text = os.fspath(path)
    urls.check(text)
    is_folder = paths.is_folder(text)
    ranks = shared() if is_folder or text.rstrip("/").endswith(_FOLDER) else Ranks.alone()
    return Load(into, map_location, strict, strip_prefix, weights_only, ranks).run(text, is_folder=is_folder)


def _check(into: Any, map_location: Any, *, is_strict: bool) -> None:
    faults = []
    if into is None and not is_strict:
        faults.append(errors.Fault("strict", "expected true without `into`: there is nothing to fit"))
    if isinstance(into, Checkpoint):
        faults.append(errors.Fault("into", "expected live objects; pass `into.payload()` of a Checkpoint"))
    elif is_plain_value(into):
        kind = type(into).__qualname__
        faults.append(
            errors.Fault("into", f"expected a module, an optimizer or a dict of such, not a {kind}")
        )
    if not (map_location is None or callable(map_location) or isinstance(map_location, dict)):
        try:
            torch.device(map_location)
        except (RuntimeError, TypeError):
            expected = "expected a device, a dict, a function or None"
            faults.append(errors.Fault("map_location", f"{expected}, not {map_location!r}"))
    if faults:
        raise errors.ArgumentsError(faults)


@dataclass(frozen=True)
class Load:
    """The arguments of one load, see `load`, and the ranks that load together."""

    into: Any
    map_location: MapLocation
    strict: bool
    strip_prefix: str | None
    weights_only: bool
    ranks: Ranks

    def run(self, path: str, *, is_folder: bool) -> Any:
        """Loads what a path names, a file, too, at all of the ranks; they call this together.

        Args:
            path: what is loaded.
            is_folder: whether it is a directory; of the ranks the first one decides.

        Raises:
            RankError: another rank names something else, has ended, or did not answer in time.
            MarlinError: as `load`; the same at all ranks.
        """
        check_same(self.ranks, path)
        together(self.ranks, lambda: _check(self.into, self.map_location, is_strict=self.strict))
        if told_by_main(self.ranks, lambda: is_folder):
            return self._newest(path)
        return self._one(path, is_folder=False)

    def found(self, entry: Entry) -> tuple[Entry, Any]:
        """Loads what was found, as `run` does, and says which it was."""
        return entry, self.run(entry.path, is_folder=bool(entry.layout))

    def _newest(self, directory: str) -> Any:
        def attempt(entry: Entry) -> list[Any]:
            found = [
                self._one(entry.path, is_folder=bool(entry.layout))
            ]  # which may be None, and is not to be passed over
            if entry.path.endswith(".safetensors"):
                self._log(
                    "%s is a safetensors file, which has no checksums: it cannot be verified", entry.path
                )
            if self.ranks.is_main:
                _logger.info("Loaded %s", entry.path)
            return found

        is_one = told_by_main(self.ranks, lambda: catalog.entry(directory) is not None)
        if is_one:
            return self._one(directory, is_folder=True)
        candidates = partial(newest_of_any, directory, _logger)
        if found := newest_agreed(self.ranks, candidates, attempt, _logger):
            return found[0]
        raise errors.CheckpointNotFoundError("no checkpoint found", directory)

    def _one(self, path: str, *, is_folder: bool) -> Any:
        if is_folder:
            told_by_main(self.ranks, lambda: _refuse_other_folders(path))
        kind = Restoration if self.strict else LenientRestoration
        restoration = None if self.into is None else kind(self.into)
        view: Any = None

        def pairs(payload: Any, manifest: Manifest | None) -> Iterable[Pair]:
            nonlocal view
            view = self._seen(payload)
            return () if restoration is None else restoration.pairs(view, manifest, path)

        how = How(self.weights_only, _logger.warning, pairs, partial(self._arranged, path), self.map_location)
        try:
            payload, manifest = read_together(path, self.ranks, how, self.into, reader.read_any)
            if restoration is not None:
                agreed(self.ranks, lambda: restoration.finish(view, path))
        except errors.StateMismatchError as error:
            error.hint = arrangement_hint(view, self.into) or error.hint
            raise
        if manifest is not None and manifest.lost:
            self._log("%s was salvaged and lacks %s.", path, ", ".join(manifest.lost))
        if restoration is None:
            return view if self.strip_prefix else payload
        return self._result(restoration, view, path)

    def _log(self, what: str, *about: Any) -> None:
        if self.ranks.is_main:
            _logger.warning(what, *about)

    def _result(self, restoration: Restoration, view: Any, path: str) -> Any:
        for note in restoration.notes:
            self._log("%s: %s", note, path)
        if not isinstance(restoration, LenientRestoration):
            return merged(view, self.into)
        report = restoration.report(view)
        if not report.loaded and (hint := arrangement_hint(view, self.into)):
            self._log("Nothing of %s is loaded; %s", path, hint)
        return report

    def _arranged(self, path: str, payload: Any) -> Any:
        return stripped(payload, self.into, self.strip_prefix, path) if self.strip_prefix else payload

    def _seen(self, payload: Any) -> Any:
        """The state of a file as it is compared with the live objects, and returned."""
        return completed(payload, self.into) if isinstance(self.into, torch.nn.Module) else payload


def _refuse_other_folders(path: str) -> None:
    if (one := catalog.entry(path)) and one.layout not in LAYOUTS:
        raise _folder(one)


def _folder(entry: Entry) -> errors.MarlinError:
    layout = layouts.of(entry)
    if layout is not None and not layout.is_ours:
        what = f"is one checkpoint of another tool: {layout.content}"
        return errors.MarlinError(what, entry.path, layout.hint)
    files = [one.name for one in entry.members if one.name.rpartition(".")[2] in EXTENSIONS]
    hint = f"load one of its files, such as {os.path.join(entry.place, files[0])}" if files else ""
    return errors.MarlinError("is a folder of files, which load does not put together", entry.path, hint)
