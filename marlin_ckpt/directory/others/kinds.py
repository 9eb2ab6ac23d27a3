"""The newest checkpoint of a directory, whichever tool has written it: which kinds of names are there.

Without what reads the content of files: `latest` goes by names.
"""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from marlin_ckpt import grammars, naming
from marlin_ckpt.directory import latest
from marlin_ckpt.directory.catalog import entry, readable
from marlin_ckpt.directory.walk import Level
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import layouts
from marlin_ckpt.grammars.grammar import Reading
from marlin_ckpt.naming import EXTENSIONS
from marlin_ckpt.storage.paths import open_store

_MOST_NAMES = 3
_NUMBER_AT_END = re.compile(r"[0-9]+\Z")


@dataclass(slots=True)
class _Kinds:
    """The kinds of names that are in a directory, each with an example.

    Attributes:
        seen: all files, by their names in the directory.
        ours: by the prefixes and extensions of our grammar.
        others: those of other tools, by the pattern of the names; with the start of the names and their
            extension.
        readings: what each name of another tool says.
        unnamed: folders that are one checkpoint of another tool, and whose names say nothing of their place.
    """

    seen: list[str] = field(default_factory=list)
    ours: dict[tuple[str, str], str] = field(default_factory=dict)
    others: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)
    unnamed: list[Entry] = field(default_factory=list)

    def add_files(self, folder: str, names: set[str]) -> None:
        for name in sorted(names):
            path = os.path.join(folder, name)
            self.seen.append(path)
            is_ours, prefix, extension = _read(name)
            if is_ours:
                self.ours.setdefault((prefix, extension), path)
            elif is_ours is not None and (found := _reading(name)):
                self.others.setdefault(f"*.{extension}", ("", extension, path))
                self.readings[path] = found

    def add_folder(self, one: Entry) -> None:
        """Adds a folder of another tool; one named like its files is of their kind."""
        stem, ends, extension = _folder_stem(one)
        found = grammars.read(stem) if one.name else None
        if found is None:
            self.unnamed.append(one)
            return
        start = "" if ends else _NUMBER_AT_END.sub("", stem)
        kind = (start, extension if ends else "pt", one.item.name)
        self.others.setdefault(f"*.{extension}" if ends else f"{start}*/", kind)
        self.readings[one.item.name] = found


def newest_of_any(
    directory: PathText, logger: logging.Logger, *, only_others: bool = False
) -> Iterator[Entry]:
    """All checkpoints of a directory, the newest first, whatever the prefix and extension of their names.

    Names of our grammar are taken before those of other tools, as `get_latest_file` does. Folders that are
    one checkpoint of another tool count as its files do. A directory that is itself one checkpoint, and holds
    no other, is the only one.

    Args:
        directory: that is searched, with its sub-directories.
        logger: is told what `newest_first` tells.
        only_others: none where there are names of our grammar, of whatever prefix and extension.

    Raises:
        CheckpointNotFoundError: there is no such directory, or no checkpoint in it.
        StorageError: the directory cannot be read.
        MarlinError: checkpoints of several prefixes or extensions are there, or names do not tell which is
            the newest.
    """
    text = os.fspath(directory)
    found = _look(text)
    if found.ours and only_others:
        return
    chosen = _of_ours(found) if found.ours else found.others
    if len(chosen) > 1:
        hint = f"name the one to take, such as {os.path.join(text, min(one[2] for one in chosen.values()))}"
        raise MarlinError(f"checkpoints of several kinds are here: {', '.join(sorted(chosen))}", text, hint)
    if not found.ours:
        _check_order(found.readings, text)
    for prefix, extension, _ in chosen.values():
        yield from latest.newest_first(text, prefix, extension, logger, foreign=not found.ours)
    if not chosen:
        yield from _unnamed(found, text)


def _look(directory: str) -> _Kinds:
    found = _Kinds()
    whole: dict[str, str] = {}  # folders of ours, which belong to files of any extension
    for level in _levels(directory):
        repeated = latest.repeating_links(directory, level)
        found.add_files(level.folder, {os.path.basename(name) for name in level.objects} - repeated)
        for one in level.checkpoints:
            if layouts.is_foreign(one):
                found.add_folder(one)
            elif one.name:
                whole[one.name.prefix] = one.item.name
    known = {prefix for prefix, _ in found.ours}
    found.ours |= {(prefix, "pt"): name for prefix, name in whole.items() if prefix not in known}
    return found


def _of_ours(found: _Kinds) -> dict[str, tuple[str, str, str]]:
    return {
        f"{prefix}{'_' if prefix else ''}*.{extension}": (prefix, extension, name)
        for (prefix, extension), name in found.ours.items()
    }


def _unnamed(found: _Kinds, directory: str) -> Iterator[Entry]:
    """The one folder whose name says nothing of its place, or the directory, where there is no other.

    Raises:
        CheckpointNotFoundError, MarlinError: as `newest_of_any` raises them.
    """
    if len(found.unnamed) > 1:
        one, other = sorted(one.item.name for one in found.unnamed)[:2]
        hint = f"name the one to take, such as {os.path.join(directory, one)}"
        raise MarlinError(f"names do not tell which is newer: {one}, {other}", directory, hint)
    if found.unnamed:
        yield from found.unnamed
        return
    if itself := entry(directory):
        yield itself
        return
    some = ", ".join(sorted(found.seen)[:_MOST_NAMES]) + ", ..." * (len(found.seen) > _MOST_NAMES)
    hint = f"it holds {some}: name the file to take" if found.seen else "it is empty"
    raise CheckpointNotFoundError("no checkpoint found", directory, hint)


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
    for level in _levels(os.fspath(directory)):
        found |= {(one.name.prefix, extension) for one in level.checkpoints if one.name}
        for name in map(os.path.basename, level.objects):
            is_ours, prefix, its_extension = _read(name)
            if is_ours is not None:
                found.add((prefix or _letters(name), its_extension))
    return [pair for pair in sorted(found) if pair[0]]


def _letters(name: str) -> str:
    """What the name of a file starts with: `epoch` of `epoch=2-step=6.ckpt`."""
    return re.split(r"[^A-Za-z]", name, maxsplit=1)[0]


def _check_order(readings: dict[str, Reading], directory: str) -> None:
    """Refuses names of other tools of which none says where it stands among the others: `last.ckpt`."""
    read = {path: (found.step, found.epoch) for path, found in sorted(readings.items())}
    are_told = [all(one is not None for one in column) for column in zip(*read.values(), strict=True)]
    if any(are_told) or len(set(read.values())) < 2:  # noqa: PLR2004
        return
    said = {tuple(one is not None for one in values): path for path, values in read.items()}
    one, other = list(said.values())[:2]
    hint = f"name the one to take, such as {os.path.join(directory, one)}"
    raise MarlinError(f"names do not tell which is newer: {one}, {other}", directory, hint)


def _folder_stem(one: Entry) -> tuple[str, bool, str]:
    """The name of a folder without the extension of a file that it may have, and that extension."""
    name = os.path.basename(one.item.name)
    stem, extension = naming.split_extension(name)
    return (stem, True, extension) if stem and extension in EXTENSIONS else (name, False, "")


def _reading(path: str) -> Reading | None:
    stem, extension = naming.split_extension(os.path.basename(path))
    return grammars.read(stem) if extension in EXTENSIONS else None


def _read(name: str) -> tuple[bool | None, str, str]:
    """Whether a name is of our grammar, None where it is of no tool's; its prefix, and its extension."""
    extension = naming.split_extension(name)[1]
    if extension not in EXTENSIONS:
        return None, "", extension
    read = _reading(name)
    if read and read.step is not None and read.epoch is not None:  # fairseq's `checkpoint_3_500.pt`
        return False, "", extension
    if found := naming.parse_any(name, extension):
        return (True if found.kind is naming.Kind.CHECKPOINT else None), found.prefix, extension
    return (False if read else None), "", extension


def _levels(directory: str) -> Iterator[Level]:
    with open_store(directory) as store:
        yield from readable(store, recursive=True)
