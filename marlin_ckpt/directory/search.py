"""The checkpoints of a directory in order: of one prefix, or of whichever prefix and extension are there."""

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from marlin_ckpt import grammars, naming
from marlin_ckpt.directory import catalog, latest
from marlin_ckpt.directory.catalog import readable
from marlin_ckpt.directory.retention.decide import best_first
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.inspection import inspect, metric_names
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.grammars.grammar import Reading
from marlin_ckpt.keep import BestArguments
from marlin_ckpt.naming import EXTENSIONS, Kind
from marlin_ckpt.storage.local.store import open_store

_MOST_NAMES = 3
# Files that a folder has all of which is one checkpoint of another tool, and what reads it.
_FOREIGN = {
    (".metadata",): "torch.distributed.checkpoint.load reads it",
    ("trainer_state.json",): "the Trainer of Transformers reads it: resume_from_checkpoint",
    ("model.safetensors.index.json",): "from_pretrained of Transformers reads it; or load each of its files",
    ("pytorch_model.bin.index.json",): "from_pretrained of Transformers reads it; or load each of its files",
    ("config.json", "model.safetensors"): "load its model.safetensors",
    ("config.json", "pytorch_model.bin"): "load its pytorch_model.bin",
    ("adapter_config.json", "adapter_model.safetensors"): "load its adapter_model.safetensors",
}


@dataclass(frozen=True, slots=True)
class Series:
    """The checkpoints of one prefix in one directory, as they are whenever they are asked for.

    Attributes:
        directory: its path; where there is none, there are no checkpoints.
        prefix: what their names start with.
        extension: of files, without its dot; folders count whatever theirs is.
        run_id: only checkpoints of this run; None: of all.
    """

    directory: str
    prefix: str
    extension: str
    run_id: str | None = None

    def inspections(self) -> Iterator[Inspection]:
        """What a look at each finds, in the order of their index; of equal indices in that of their time."""
        return filter(self._holds, map(inspect, self._entries()))

    def newest(self) -> Inspection | None:
        """What a look at the one with the greatest index finds, be it damaged; None where there is none."""
        return next(filter(self._holds, map(inspect, reversed(self._entries()))), None)

    def newest_first(self) -> Iterable[Entry]:
        """The greatest index first, of equal ones that which was changed last, for a search to try.

        What is too damaged to say of which run it is, is among those of each, to be passed over with the
        reason.
        """
        found = reversed(self._entries())
        if self.run_id is None:
            return found
        return [one.entry for one in map(inspect, found) if self._holds(one) or _is_silent(one)]

    def best_first(self, rule: BestArguments) -> Iterable[Entry]:
        """The best by a metric first, of equal ones the newest; all that have a finite value of it.

        Before them comes what is too damaged to say its metrics, to be passed over with the reason.
        """
        found = [inspect(one) for one in reversed(self._entries())]
        silent = [one.entry for one in found if _is_silent(one)]
        measured = [(one.entry, one.manifest.metrics) for one in found if one.manifest and self._holds(one)]
        return silent + best_first(measured, rule)

    def metrics(self) -> list[str]:
        """The names of the metrics that any checkpoint has, sorted."""
        return metric_names(self.inspections())

    def with_index(self, index: int) -> Entry:
        """The checkpoint of an index.

        Raises:
            CheckpointNotFoundError: there is none; the hint names the newest.
            StorageError: the directory cannot be read.
        """
        entries = list(self.newest_first())
        if found := next((one for one in entries if one.index == index), None):
            return found
        some = ", ".join(str(one.index) for one in entries[:_MOST_NAMES])
        hint = f"there are {some}" if some else f"there is no checkpoint of prefix {self.prefix}"
        hint += ", ..." * (len(entries) > _MOST_NAMES)
        raise CheckpointNotFoundError(f"no checkpoint of index {index}", self.directory, hint)

    def _holds(self, found: Inspection) -> bool:
        return self.run_id is None or (found.manifest is not None and found.manifest.run_id == self.run_id)

    def _entries(self) -> list[Entry]:
        found: list[Entry] = []
        with contextlib.suppress(CheckpointNotFoundError):
            found = catalog.find(self.directory, prefix=self.prefix, extension=self.extension)
        checkpoints = (
            one
            for one in found
            if one.name and one.name.kind is Kind.CHECKPOINT and not layouts.is_foreign(one)
        )
        return sorted(checkpoints, key=lambda one: (one.index or 0, one.modified_ns, one.path))


def _is_silent(found: Inspection) -> bool:
    """Whether a manifest that may be there cannot be read; a whole file by another tool has none."""
    return found.manifest is None and (found.error is not None or found.status is None)


def newest_of_any(directory: PathText, logger: logging.Logger) -> Iterator[Entry]:
    """All checkpoints of a directory, the newest first, whatever the prefix and extension of their names.

    Names of our grammar are taken before those of other tools, as `get_latest_file` does.

    Args:
        directory: that is searched, with its sub-directories.
        logger: is told what `newest_first` tells.

    Raises:
        CheckpointNotFoundError: there is no such directory, or no checkpoint in it.
        StorageError: the directory cannot be read.
        MarlinError: checkpoints of several prefixes or extensions are there, or names do not tell which is
            the newest, or the directory is one checkpoint of another tool.
    """
    text = os.fspath(directory)
    seen: list[str] = []
    ours: dict[tuple[str, str], str] = {}  # by prefix and extension, a name
    others: dict[tuple[str, str], str] = {}  # of other tools, which have no prefix
    whole: dict[str, str] = {}  # folders, which belong to files of any extension
    for folder, names, folders in _levels(text):
        foreign = next((one for one in _FOREIGN if names.issuperset(one)), ())
        if foreign and not folder:
            what = f"is one checkpoint of another tool, by its {' and '.join(foreign)}"
            raise MarlinError(what, text, _FOREIGN[foreign])
        seen += (os.path.join(folder, name) for name in names)
        whole |= {
            one.name.prefix: one.item.name for one in folders if one.name and not layouts.is_foreign(one)
        }
        for name in () if foreign else names:
            kind, prefix, extension = _read(name)
            if kind is not None:
                (ours if kind else others).setdefault((prefix, extension), os.path.join(folder, name))
    known = {prefix for prefix, _ in ours}
    ours |= {(prefix, "pt"): name for prefix, name in whole.items() if prefix not in known}
    chosen = ours or others
    if len(chosen) > 1:
        patterns = sorted(f"{prefix}{'_' if prefix else ''}*.{extension}" for prefix, extension in chosen)
        hint = f"name the file to load, such as {os.path.join(text, min(chosen.values()))}"
        raise MarlinError(f"checkpoints of several kinds are here: {', '.join(patterns)}", text, hint)
    if not ours:
        _check_order(seen, text)
    for prefix, extension in chosen:
        yield from latest.newest_first(text, prefix, extension, logger)
    if not chosen:
        some = ", ".join(sorted(seen)[:_MOST_NAMES]) + ", ..." * (len(seen) > _MOST_NAMES)
        hint = f"it holds {some}: name the file to load" if seen else "it is empty"
        raise CheckpointNotFoundError("no checkpoint found", text, hint)


def names_of_others(directory: PathText, extension: str) -> list[tuple[str, str]]:
    """The prefixes and extensions of the checkpoints that are there, whoever wrote them; sorted.

    Args:
        directory: that is searched, with its sub-directories.
        extension: given to folders, which have none.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    found = set()
    for _, names, folders in _levels(os.fspath(directory)):
        found |= {(one.name.prefix, extension) for one in folders if one.name}
        for name in names:
            is_ours, prefix, its_extension = _read(name)
            if is_ours is not None:
                found.add((prefix or _letters(name), its_extension))
    return [pair for pair in sorted(found) if pair[0]]


def _letters(name: str) -> str:
    """What the name of a file starts with: `epoch` of `epoch=2-step=6.ckpt`."""
    return re.split(r"[^A-Za-z]", name, maxsplit=1)[0]


def _check_order(paths: Iterable[str], directory: str) -> None:
    """Refuses names of other tools of which none says where it stands among the others: `last.ckpt`."""
    read = {path: (found.step, found.epoch) for path in sorted(paths) if (found := _reading(path))}
    are_told = [all(one is not None for one in column) for column in zip(*read.values(), strict=True)]
    if any(are_told) or len(set(read.values())) < 2:  # noqa: PLR2004
        return
    said = {tuple(one is not None for one in values): path for path, values in read.items()}
    one, other = list(said.values())[:2]
    hint = f"name the one to load, such as {os.path.join(directory, one)}"
    raise MarlinError(f"names do not tell which is newer: {one}, {other}", directory, hint)


def _reading(path: str) -> Reading | None:
    stem, _, extension = os.path.basename(path).rpartition(".")
    return grammars.read(stem) if extension in EXTENSIONS else None


def _read(name: str) -> tuple[bool | None, str, str]:
    """Whether a name is of our grammar, None where it is of no tool's; its prefix, and its extension."""
    extension = name.rpartition(".")[2]
    if extension not in EXTENSIONS:
        return None, "", extension
    if found := naming.parse_any(name, extension):
        return (True if found.kind is naming.Kind.CHECKPOINT else None), found.prefix, extension
    return (False if _reading(name) else None), "", extension


def _levels(directory: str) -> Iterator[tuple[str, set[str], tuple[Entry, ...]]]:
    """The folders of a directory, each with the names of its files, and the checkpoints that are folders."""
    with open_store(directory) as store:
        for level in readable(store, recursive=True):
            yield level.folder, {os.path.basename(name) for name in level.objects}, level.checkpoints
