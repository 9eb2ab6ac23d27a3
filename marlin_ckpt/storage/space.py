"""What files take on the disk: bytes that several of them share are there once.

File systems say so in different ways, and few at all. Where one does not, a file takes its length.
"""

import contextlib
import itertools
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from marlin_ckpt.entries import Entry
from marlin_ckpt.storage.extents import Extent, extents
from marlin_ckpt.storage.local.files import closing, open_regular
from marlin_ckpt.storage.local.mounts import mount_of

# That let files share bytes, and say which they are. Others are not asked: it takes a call for each file.
_TELLING = {"bcachefs", "btrfs", "ocfs2", "overlay", "xfs"}
# What btrfs compresses at once becomes a block at least: a 32nd. Places that are so many times as far from
# one another do not overlap.
_MOST_PACKED = 32

_known: dict[int, bool] = {}  # by st_dev


class Range(NamedTuple):
    """A stretch of a disk.

    Attributes:
        disk: its file system.
        start: its first byte.
        stop: the byte behind its last one.
    """

    disk: tuple[int, bool]
    start: int
    stop: int


class Taken(NamedTuple):
    """What a checkpoint takes on the disk.

    Attributes:
        own_bytes: what no other file has, so that its removal gives them back.
        ranges: where its bytes lie.
        elsewhere_bytes: how many more it has, which it shares with none.
    """

    own_bytes: int
    ranges: tuple[Range, ...] = ()
    elsewhere_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """What it takes with what it shares."""
        return self.elsewhere_bytes + sum(one.stop - one.start for one in self.ranges)

    @property
    def shares(self) -> bool:
        """Whether another file has some of its bytes."""
        return self.own_bytes < self.size_bytes


def alone(size_bytes: int) -> Taken:
    """What is taken by a file that shares nothing, as far as is known."""
    return Taken(size_bytes, (), size_bytes)


def taken(entry: Entry) -> Taken | None:
    """What a checkpoint takes; None where its file system does not say, and in an object store.

    Args:
        entry: the checkpoint, a file or a folder.
    """
    files = entry.members or (entry.item,)
    if not all(one.inode and _tells(one.inode[0], entry.place) for one in files):
        return None
    return _together(os.path.join(entry.place, one.name) for one in files)


def taken_at(path: str) -> Taken | None:
    """What a file or folder takes; None where its file system does not say.

    Args:
        path: of it.
    """
    with contextlib.suppress(OSError):
        if _tells(os.stat(path).st_dev, path):
            return _together(_files(path))
    return None


def ranges_of(path: str, spans: Sequence[tuple[int, int]]) -> list[tuple[Range, ...]] | None:
    """Where stretches of a file lie on the disk.

    Args:
        path: of the file.
        spans: where each of them begins in it, and its length, in order.

    Returns:
        the ranges of each; None where the file system does not say.
    """
    with contextlib.suppress(OSError), closing(open_regular(path)) as fd:
        device = os.fstat(fd).st_dev
        if not _tells(device, path):
            return None
        found = [one for one in extents(fd) if one.place is not None]
        stops = [one.start + one.size for one in found]
        return [tuple(_ranges(device, found, stops, start, start + size)) for start, size in spans]
    return None


def _ranges(
    device: int, found: Sequence[Extent], stops: Sequence[int], start: int, stop: int
) -> Iterator[Range]:
    at = bisect_right(stops, start)
    while at < len(found) and found[at].start < stop:
        yield _range(device, _cut(found[at], start, stop))
        at += 1


def _tells(device: int, path: str) -> bool:
    """Whether the file system that a path is on says which bytes files share."""
    if device not in _known:
        try:
            with closing(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as fd:
                _known[device] = mount_of(fd).file_system in _TELLING
        except OSError:
            return False
    return _known[device]


def _files(path: str) -> Iterator[str]:
    """The files in a folder, at any depth; of a file itself."""
    if not os.path.isdir(path):
        yield path
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names)


def _together(paths: Iterable[str]) -> Taken | None:
    own, elsewhere = 0, 0
    ranges: list[Range] = []
    try:
        for path in paths:
            with closing(open_regular(path)) as fd:
                device = os.fstat(fd).st_dev
                for one in extents(fd):
                    own += one.size * (not one.is_shared)
                    if one.place is None:
                        elsewhere += one.size
                    else:
                        ranges.append(_range(device, one))
    except OSError:
        return None
    return Taken(own, tuple(ranges), elsewhere)


def _range(device: int, one: Extent) -> Range:
    start = (one.place or 0) * (_MOST_PACKED if one.is_packed else 1)
    return Range((device, one.is_packed), start, start + one.size)


def _cut(one: Extent, start: int, stop: int) -> Extent:
    """The part of a stretch that is between two offsets of its file; of a packed one all."""
    if one.is_packed or one.place is None:
        return one
    before = max(0, start - one.start)
    size = min(one.start + one.size, stop) - one.start - before
    return one._replace(start=one.start + before, size=size, place=one.place + before)


class Together:
    """What checkpoints take together, of which one after the other may go."""

    def __init__(self, found: Iterable[Taken]) -> None:
        """Takes what each of them takes."""
        found = [*found]
        borders = {
            (one.disk, edge) for each in found for one in each.ranges for edge in (one.start, one.stop)
        }
        self._borders = sorted(borders)
        self._counts = [0] * len(self._borders)  # of those that have what begins at each border
        self.size_bytes = 0
        for each in found:
            self._change(each, 1)

    def remove(self, one: Taken) -> None:
        """Has one of them go."""
        self._change(one, -1)

    def _change(self, one: Taken, by: int) -> None:
        self.size_bytes += one.elsewhere_bytes * by
        for disk, start, stop in one.ranges:
            at = bisect_left(self._borders, (disk, start))
            while self._borders[at] != (disk, stop):
                before, self._counts[at] = self._counts[at], self._counts[at] + by
                if not before or not self._counts[at]:
                    self.size_bytes += (self._borders[at + 1][1] - self._borders[at][1]) * by
                at += 1

    def twice(self) -> Taken:
        """What two of them have, or more."""
        pairs = itertools.pairwise(self._borders)
        return Taken(
            0, tuple(
                Range(disk, start, stop)
                for ((disk, start), (_, stop)), count in zip(pairs, self._counts, strict=False)
                if count > 1
            ),
        )  # fmt: skip


def together_bytes(found: Iterable[Taken]) -> int:
    """What checkpoints take together."""
    return Together(found).size_bytes


def freed_bytes(going: Iterable[Taken], staying: Iterable[Taken]) -> int:
    """What the removal of checkpoints gives back.

    That is what each of them has alone, and what they share with one another and with none that stays. What
    one of them shares with none of these, a file that is not known here has, too.

    Args:
        going: what is removed.
        staying: what stays of that which may share with them.
    """
    going, staying = [*going], [*staying]
    theirs = [Together(going).twice(), *staying]
    return sum(one.own_bytes for one in going) + together_bytes(theirs) - together_bytes(staying)
