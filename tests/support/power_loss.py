"""What a power loss can leave of files, from a record of the system calls that wrote them.

On the disk for certain is what an fsync covered: of a file its bytes and length, of a directory its entries,
neither one with the other. Of each call since then there may be everything, nothing or a part, whatever came
later: bytes by sectors, a length without its bytes (they read as zeros), a rename's new name with the old one
still there. That is more than any one file system leaves, and so holds for all; the approach is that of ALICE
(Pillai et al., OSDI 2014).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SECTOR_BYTES = 512
ROOT = 0  # the node of the recorded directory
_EXHAUSTIVE = 6  # pending calls on directories up to which every combination is tried


@dataclass(frozen=True, slots=True)
class Write:
    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Share:
    """A stretch of a file that it has from another: what was on the disk of that, as if it were written."""

    node: int
    offset: int
    source: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Resize:
    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Enter:
    """Entries of a directory that change in one call, a new name first; None: the name goes."""

    node: int
    entries: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Sync:
    node: int
    path: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Not a call: a save under a path begins, or is reported."""

    path: str
    save: int
    is_reported: bool


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes."""

    data: bytes
    digest: bytes

    @classmethod
    def of(cls, data: bytes) -> Content:
        return cls(data, hashlib.blake2b(data, digest_size=16).digest())


Call = Write | Share | Resize | Enter | Sync | Mark
Change = Write | Resize | Enter
Tree = dict[str, Content | None]  # by path below the recorded directory; None: a directory


class Disk:
    """What is on the disk for certain, and the changes that may or may not be."""

    def __init__(self) -> None:
        self._directories: dict[int, dict[str, int]] = {ROOT: {}}
        self._files: dict[int, Content] = {}
        self._pending: dict[int, list[Change]] = {}
        self._named: set[int | None] = set()  # at some time

    def do(self, call: Call) -> None:
        """Makes one more call; after it the power may go."""
        if isinstance(call, Share):
            self.do(Write(call.node, call.offset, self._settled(call)))
        elif isinstance(call, Sync):
            changes = self._pending.pop(call.node, [])
            if self._is_file(call.node, changes):
                self._files[call.node] = self._file(call.node, changes)
            else:
                self._directories[call.node] = self._directory(call.node, changes)
                self._forget_removed()
        elif isinstance(call, Write):
            self._pending.setdefault(call.node, []).extend(_sectors(call))
        elif not isinstance(call, Mark):
            self._pending.setdefault(call.node, []).append(call)
            if isinstance(call, Enter):
                self._named |= {node for _, node in call.entries}

    def _settled(self, share: Share) -> bytes:
        """What is certain of the bytes that are shared; zeros where nothing is."""
        there = self._files.get(share.source)
        data = there.data[share.start : share.start + share.size] if there else b""
        return data.ljust(share.size, b"\0")

    def whole(self) -> Tree:
        """What is there as long as the power stays."""
        return self._tree(self._pending)

    def systematic(self) -> Iterator[Tree]:
        """The states in which the entries of directories are lost in any combination, or one file is hurt."""
        pending = self._pending
        files = [node for node, changes in pending.items() if self._is_file(node, changes)]
        lost = {**pending, **dict.fromkeys(files, ())}
        ways = [[(node, way) for way in _entry_ways(pending[node])] for node in pending if node not in files]
        for way in itertools.product(*ways):
            yield self._tree({**pending, **dict(way)})
            yield self._tree({**lost, **dict(way)})
        for node in files:
            length = self._length(node)
            for way in _file_ways(pending[node]):
                yield self._tree({**pending, node: way})
                yield self._tree({**pending, node: (*way, length)})

    def random(self, rng: random.Random) -> Tree:
        """A state in which each change is there or not by chance."""
        ways: dict[int, list[Change]] = {}
        for node, changes in self._pending.items():
            share = rng.choice((0.1, 0.5, 0.9, 1.0))
            ways[node] = [
                rng.choice(_halves(change)) if rng.random() > share else change
                for change in changes
                if rng.random() < share
            ]
            if self._is_file(node, changes) and rng.random() < 0.5:
                ways[node].append(self._length(node))
        return self._tree(ways)

    def _forget_removed(self) -> None:
        """Forgets changes of what has no name any more in any state that there can still be."""
        changes = [one for each in self._pending.values() for one in each if isinstance(one, Enter)]
        named: set[int | None] = {ROOT, *(node for one in changes for _, node in one.entries)}
        below = [*named]
        while below:
            children = {*self._directories.get(below.pop(), {}).values()} - named
            named |= children
            below += children
        gone = self._named - named
        self._pending = {node: each for node, each in self._pending.items() if node not in gone}

    def _is_file(self, node: int, changes: Iterable[Change]) -> bool:
        return node in self._files or any(isinstance(change, Write | Resize) for change in changes)

    def _tree(self, ways: dict[int, Iterable[Change]]) -> Tree:
        tree: Tree = {}
        below = [("", ROOT)]
        while below:
            path, node = below.pop()
            changes = ways.get(node, ())
            if path and self._is_file(node, self._pending.get(node, ())):
                tree[path] = self._file(node, changes)
            else:
                tree[path] = None
                entries = self._directory(node, changes)
                below += [(os.path.join(path, name), child) for name, child in entries.items()]
        del tree[""]
        return tree

    def _directory(self, node: int, changes: Iterable[Change]) -> dict[str, int]:
        entries = dict(self._directories.get(node, {}))
        for change in changes:
            for name, child in change.entries:
                entries.pop(name, None)
                entries.update({} if child is None else {name: child})
        return entries

    def _length(self, node: int) -> Resize:
        """The length with all changes, for when it is on the disk before them."""
        return Resize(node, len(self._file(node, self._pending[node]).data))

    def _file(self, node: int, changes: Iterable[Change]) -> Content:
        settled = self._files.get(node)
        if settled is not None and not changes:
            return settled
        data = bytearray(settled.data if settled else b"")
        for change in changes:
            end = change.size if isinstance(change, Resize) else change.offset + len(change.data)
            data += bytes(max(0, end - len(data)))
            if isinstance(change, Resize):
                del data[end:]
            else:
                data[change.offset : end] = change.data
        return Content.of(bytes(data))


def _sectors(write: Write) -> Iterator[Write]:
    at = 0
    while at < len(write.data):
        size = SECTOR_BYTES - (write.offset + at) % SECTOR_BYTES
        yield Write(write.node, write.offset + at, write.data[at : at + size])
        at += size


def _halves(change: Change) -> list[Change]:
    """A change, and, of a rename, the new name alone."""
    if isinstance(change, Enter) and len(change.entries) > 1:
        return [change, Enter(change.node, change.entries[:1])]
    return [change]


def _entry_ways(changes: list[Change]) -> Iterator[tuple[Change, ...]]:
    if len(changes) <= _EXHAUSTIVE:
        for way in itertools.product(*([None, *_halves(change)] for change in changes)):
            yield tuple(change for change in way if change is not None)
        return
    for at, change in enumerate(changes):
        yield from (tuple(changes[:at]), tuple(changes[:at] + changes[at + 1 :]), (change,))


def _file_ways(changes: list[Change]) -> Iterator[tuple[Change, ...]]:
    for at in range(len(changes)):
        yield from (tuple(changes[:at]), tuple(changes[:at] + changes[at + 1 :]))
