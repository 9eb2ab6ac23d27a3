"""Orders checkpoints by their names alone, the newest first.

The names are read by our grammar; where none fits it by those of other tools; and where none fits these by
the last integer of the stem, as PyMarlin does, which says nothing certain.
"""

import contextlib
import itertools
import logging
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from marlin_ckpt import naming
from marlin_ckpt.directory.catalog import by_age, readable, regular_file
from marlin_ckpt.directory.walk import Level
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError
from marlin_ckpt.escaping import escape, get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import layouts
from marlin_ckpt.storage.paths import open_store
from marlin_ckpt.storage.store import Store

_INTEGER = r"[0-9]+"
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"

_logger = get_logger(__name__)


class _Keyed(NamedTuple):
    """Names in the store, in columns.

    Attributes:
        keys: the greatest is that of the newest.
        names: one for each.
    """

    keys: Sequence[Any]
    names: Sequence[str]


def get_latest_file(
    load_dir: PathText, file_prefix: str, file_ext: str = "pt", logger: logging.Logger = _logger
) -> str:
    """The path of the checkpoint with the greatest index, by file names alone; no file is opened.

    Sub-directories are searched too. If no name is `{file_prefix}_{index}.{file_ext}`, names that begin with
    the prefix are read as other tools write them (`epoch=2-step=6.ckpt`, `checkpoint-500`) and ordered by
    step, then epoch. If none of these fits either, the last integer of the name decides, with a warning.
    Model files are never considered. Of equal indices the file that was changed last is taken, then the
    greater path; of a file and a sharded checkpoint of one run the one of the later save.

    Args:
        load_dir: the directory to search.
        file_prefix: the start of the names.
        file_ext: the extension, without its dot.
        logger: where the warning is logged, and at level INFO that there is no checkpoint.

    Returns:
        the path, or `""` if there is no checkpoint or no such directory.

    Raises:
        StorageError: the directory cannot be read.
    """

    def guess(one: str, other: str) -> None:
        names = ", ".join(map(escape, (one, other)))  # the logger may be the caller's own
        logger.warning("Names do not tell which is newer, and the last integer decides: %s.", names)

    latest = next(_newest_first(load_dir, file_prefix, file_ext, logger, guess), None)
    if latest is None:
        logger.info("No checkpoint found under %s.", escape(os.fspath(load_dir)))
        return ""
    return latest.path


def newest_first(
    directory: PathText,
    prefix: str,
    extension: str = "pt",
    logger: logging.Logger = _logger,
    *,
    foreign: bool = False,
) -> Iterator[Entry]:
    """All checkpoints that `get_latest_file` chooses from, its choice first.

    There are none where there is no such directory. All names are read at the first step, and of the files
    only those looked at that are asked for. With `foreign`, folders that are one checkpoint of another tool
    count as its files do, whatever the extension.

    Raises:
        StorageError: the directory cannot be read.
        MarlinError: the names do not tell which is the newest.
    """

    def refuse(one: str, other: str) -> NoReturn:
        hint = "name the one to load, or rename them to {prefix}_{index}.{extension}"
        raise MarlinError(f"names do not tell which is newer: {one}, {other}", os.fspath(directory), hint)

    return _newest_first(directory, prefix, extension, logger, refuse, foreign=foreign)


def _newest_first(  # noqa: PLR0913 - what both searches share
    directory: PathText,
    prefix: str,
    extension: str,
    logger: logging.Logger,
    in_doubt: Callable[[str, str], None],
    *,
    foreign: bool = False,
) -> Iterator[Entry]:
    if os.path.islink(directory) and not os.path.exists(directory):
        logger.warning("%s is a symbolic link that leads nowhere.", escape(os.fspath(directory)))
    with contextlib.suppress(CheckpointNotFoundError), open_store(directory) as store:
        levels = list(readable(store, recursive=True))
        _warn_of_links(store, [name for level in levels for name in level.links], logger)
        known = {one.item.name: one for level in levels for one in level.checkpoints}
        has_found = False
        for found in _in_order(store, _by_our_grammar(levels, prefix, extension), known):
            has_found = True
            yield found
        if not has_found:
            stems = _foreign_stems(store.place, levels, prefix, extension)
            if foreign:
                stems |= _folder_stems(levels, prefix)
            keyed = _by_other_grammars(stems)
            if not keyed.names:
                keyed = _by_last_integer(stems, logger, in_doubt)
            yield from _in_order(store, keyed, known)


def _warn_of_links(store: Store, links: Iterable[str], logger: logging.Logger) -> None:
    """Names the links behind which nothing is looked for: to directories elsewhere, and to nowhere."""
    inside = os.path.join(os.path.realpath(store.place), "")
    for path in (os.path.join(store.place, name) for name in links):
        if not os.path.exists(path):
            logger.warning("Passed over: a symbolic link that leads nowhere: %s", escape(path))
        elif os.path.isdir(path) and not os.path.realpath(path).startswith(inside):
            what = (
                "Passed over: what is behind this symbolic link; name the directory itself to search it: %s"
            )
            logger.warning(what, escape(path))


def _by_our_grammar(levels: Iterable[Level], prefix: str, extension: str) -> _Keyed:
    keys: list[int] = []
    names: list[str] = []
    for level in levels:
        found, indices = naming.indices(level.objects, prefix, extension, level.folder)
        names += found
        keys += indices
        for one in level.checkpoints:
            is_ours = one.name and one.name.prefix == prefix and one.name.kind is naming.Kind.CHECKPOINT
            if one.name and is_ours and not layouts.is_foreign(one):
                keys.append(one.name.index)
                names.append(one.item.name)
    return _Keyed(keys, names)


def repeating_links(place: str, level: Level, prefix: str = "") -> frozenset[str]:
    """The links in a folder to another checkpoint in it whose own names say no step: Lightning's `last.ckpt`.

    Args:
        place: of the store.
        level: the folder.
        prefix: the start of the names of the checkpoints that count.
    """
    from marlin_ckpt import grammars  # noqa: PLC0415 - names of ours go without

    known = {*level.objects, *(one.item.name for one in level.checkpoints)}
    found = set()
    for name in level.links:
        read = grammars.read(naming.split_extension(os.path.basename(name))[0])
        if read and read.step is None and read.epoch is None:
            with contextlib.suppress(OSError):  # it has gone meanwhile
                target = os.readlink(os.path.join(place, name))
                is_there = os.path.join(level.folder, target) in known - {name}
                if is_there and target.startswith(prefix):
                    found.add(os.path.basename(name))
    return frozenset(found)


def _foreign_stems(place: str, levels: Iterable[Level], prefix: str, extension: str) -> dict[str, str]:
    """The stems of the names that start with the prefix, by the names; those of model files are left out."""
    stems = {}
    for level in levels:
        repeated = repeating_links(place, level, prefix)
        for name in level.objects:
            last = name.rpartition("/")[2]
            if last in repeated:
                continue
            if last.startswith(prefix) and naming.has_extension(last, extension):
                ours = naming.parse(last, prefix, extension) or naming.parse_any(last, extension)
                if ours is None or ours.kind is naming.Kind.CHECKPOINT:
                    stems[name] = last[: -len(extension) - 1]
    return stems


def _folder_stems(levels: Iterable[Level], prefix: str) -> dict[str, str]:
    """As `_foreign_stems`, of the folders that are a checkpoint of another tool and have a place in a run."""
    folders = [one for level in levels for one in level.checkpoints if one.name and layouts.is_foreign(one)]
    names = {one.item.name: one.item.name.rpartition("/")[2] for one in folders}
    return {name: last.removesuffix(".ckpt") for name, last in names.items() if last.startswith(prefix)}


def _by_other_grammars(stems: dict[str, str]) -> _Keyed:
    """Orders the names that other tools write; nothing where they tell different things."""
    from marlin_ckpt import grammars  # noqa: PLC0415 - names of ours go without

    read = {name: found for name, stem in stems.items() if (found := grammars.read(stem))}
    columns = list(zip(*read.values(), strict=True))
    told = [
        column for column in columns[:-1] if None not in column
    ]  # step and epoch, as far as all have them
    if not told and any(value is not None for column in columns[:-1] for value in column):
        return _Keyed((), ())
    return _Keyed(list(zip(*told, *columns[-1:], strict=True)), list(read))


def _by_last_integer(
    stems: dict[str, str], logger: logging.Logger, in_doubt: Callable[[str, str], None]
) -> _Keyed:
    integers = {name: [*map(int, re.findall(_INTEGER, stem))] for name, stem in stems.items()}
    keyed = sorted((-found[-1], name) for name, found in integers.items() if found)
    if keyed:
        newest = keyed[0][1]
        others = (name for _, name in keyed[1:] if _are_in_doubt(stems[newest], stems[name]))
        if other := next(others, ""):
            in_doubt(newest, other)
        else:
            what = "Ordered by the last integer of the name, which fits no tool's grammar: %s."
            logger.warning(what, escape(newest))
    return _Keyed([-key for key, _ in keyed], [name for _, name in keyed])


def _are_in_doubt(newest: str, other: str) -> bool:
    """Whether the integers of two names give different orders, or the last one belongs to a metric."""
    numbers, others = re.findall(_NUMBER, newest), re.findall(_NUMBER, other)
    if not (numbers[-1].isdigit() and others[-1].isdigit()):
        return numbers != others
    own, theirs = ([int(one) for one in found if one.isdigit()] for found in (numbers, others))
    pairs = [*zip(own, theirs, strict=False), *zip(reversed(own), reversed(theirs), strict=False)]
    return any(mine < another for mine, another in pairs)


def _in_order(store: Store, keyed: _Keyed, known: dict[str, Entry]) -> Iterator[Entry]:
    """The entries of names in the order of their keys; of equal keys the one saved last first.

    Only what is asked for is looked at.
    """
    for names in _newest_names(keyed):
        found = [one for name in names if (one := known.get(name) or _entry(store, name))]
        yield from reversed(by_age(found))


def _newest_names(keyed: _Keyed) -> Iterator[list[str]]:
    """The names of the greatest key, of the next one, and so on; mostly the first alone are asked for."""
    if not keyed.keys:
        return
    newest = max(keyed.keys)
    yield list(itertools.compress(keyed.names, map(operator.eq, keyed.keys, itertools.repeat(newest))))
    others = sorted(((key, name) for key, name in zip(*keyed, strict=True) if key != newest), reverse=True)
    for _, same in itertools.groupby(others, key=operator.itemgetter(0)):
        yield [name for _, name in same]


def _entry(store: Store, name: str) -> Entry | None:
    item = regular_file(store, name)
    last = name.rpartition("/")[2]
    return item and Entry(store.place, item, naming.parse_any(last, naming.split_extension(last)[1]))
