"""How many physical copies there are of what checkpoints share on the disk.

A bad block damages each checkpoint that has it. What of a large record is stored twice can then be taken from
the other copy.
"""

import contextlib
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from marlin_ckpt.entries import Entry, Item
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats import placed
from marlin_ckpt.formats.digests import Digest
from marlin_ckpt.storage import space
from marlin_ckpt.storage.paths import open_source
from marlin_ckpt.storage.space import Range

_Content = tuple[
    str, str, Digest
]  # the file in the checkpoint, "" of one that is a file; the record; its data


class OneCopy(NamedTuple):
    """What several checkpoints hold and is on the disk once.

    Attributes:
        paths: of these checkpoints.
        records: how many large records it is.
        size_bytes: their length together.
    """

    paths: tuple[str, ...]
    records: int
    size_bytes: int


class Copies(NamedTuple):
    """How many physical copies there are.

    Attributes:
        least: by the path of each checkpoint that shares large records with another one, how many copies
            there are of the one of these that has the fewest.
        one_copy: what there is one copy of though several checkpoints hold it.
    """

    least: dict[str, int]
    one_copy: list[OneCopy]


class _Holder(NamedTuple):
    path: str
    size_bytes: int
    ranges: tuple[Range, ...]


def count(entries: Iterable[Entry]) -> Copies:
    """Counts the copies among some checkpoints, as far as their file system says where they lie.

    Args:
        entries: the checkpoints, none of which is damaged.
    """
    taken = [(one, found) for one in entries if (found := space.taken(one))]
    if not any(found.shares for _, found in taken):
        return Copies({}, [])
    holders: dict[_Content, list[_Holder]] = defaultdict(list)
    seen: set[tuple[int, ...]] = set()
    for entry, _ in taken:
        for item in entry.members or (entry.item,):
            if item.inode not in seen:  # else it has another name, too
                seen.add(item.inode)
                for content, holder in _held(entry, item):
                    holders[content].append(holder)
    least: dict[str, int] = {}
    alone: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for all_holders in holders.values():
        groups = _groups(all_holders)
        for one in itertools.chain(*(group for group in groups if len(group) > 1)):
            least[one.path] = min(len(groups), least.get(one.path, len(groups)))
        if len(groups) == 1 and len(all_holders) > 1:
            alone[tuple(one.path for one in all_holders)].append(all_holders[0].size_bytes)
    return Copies(least, [OneCopy(paths, len(sizes), sum(sizes)) for paths, sizes in alone.items()])


def _held(entry: Entry, item: Item) -> Iterable[tuple[_Content, _Holder]]:
    """The large records of a file of a checkpoint, each with where it lies."""
    path = os.path.join(entry.place, item.name)
    member = "" if item is entry.item else os.path.relpath(item.name, entry.item.name)
    with contextlib.suppress(MarlinError, OSError):  # has gone meanwhile, or says nothing
        with open_source(path) as source:
            records = sorted(placed.read(source).items(), key=lambda pair: pair[1].start)
        places = space.ranges_of(path, [(one.start, one.size) for _, one in records]) or []
        for (name, one), ranges in zip(records, places, strict=False):
            if ranges:
                yield (member, name, one.digested.digest), _Holder(entry.path, one.size, ranges)


def _groups(holders: Sequence[_Holder]) -> list[list[_Holder]]:
    """Those of the holders that have a block in common, each group being a copy."""
    above = [*range(len(holders))]  # of each holder itself, or another one of its group

    def first(number: int) -> int:
        while above[number] != number:
            above[number] = number = above[above[number]]
        return number

    pieces = sorted((where, number) for number, one in enumerate(holders) for where in one.ranges)
    reach, last = pieces[0]
    for where, number in pieces:
        if where.disk == reach.disk and where.start < reach.stop:
            above[first(number)] = first(last)
            reach = reach._replace(stop=max(reach.stop, where.stop))
        else:
            reach, last = where, number
    groups: dict[int, list[_Holder]] = defaultdict(list)
    for number, one in enumerate(holders):
        groups[first(number)].append(one)
    return [*groups.values()]
