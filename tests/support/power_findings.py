"""What every state must hold after the saves that were reported, and what the library finds there."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from marlin_ckpt import MarlinError, naming
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.directory.newest import newest_intact
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.storage.local.temporary import is_temporary
from tests.support.power_loss import Call, Disk, Mark, Tree
from tests.support.recorded_saves import CHECKPOINTS, FROZEN, checkpointer_for, state_of

SEED = 20261124


@dataclass
class Promises:
    """Which save each path must hold, and which it may hold instead."""

    reported: dict[str, int] = field(default_factory=dict)
    under_way: dict[str, int] = field(default_factory=dict)

    def note(self, call: Call) -> None:
        if isinstance(call, Mark) and call.is_reported:
            self.reported[call.path] = self.under_way.pop(call.path)
        elif isinstance(call, Mark):
            self.under_way[call.path] = call.save

    def broken_by(self, found: Found) -> Iterator[str]:
        for path in sorted(self.reported.keys() | found.saves.keys()):
            old = self.reported.get(path)
            if (there := found.saves.get(path)) not in {old, self.under_way.get(path, old)}:
                yield f"{path} holds {there} instead of {old}"
        indices = [index_of(path) for path in self.reported if path.startswith(CHECKPOINTS)]
        if index_of(found.latest) < max(indices, default=-1):
            yield f"the latest is {found.latest!r}"


def index_of(path: str) -> int:
    index = naming.checkpoint_index(os.path.basename(path), "model", "pt")
    return -1 if index is None else index


@dataclass(frozen=True)
class Found:
    """What the library makes of a state: the save that each path holds, or its fault, and the latest."""

    saves: dict[str, int | str]
    latest: str


class Finder:
    """Puts states into a directory, one after the other, and looks at each with the library."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.seen: dict[tuple, Found] = {}
        self._there: dict[str, bytes] = {}
        self._saves: dict[bytes, int | str] = {}
        root.mkdir()

    def look(self, tree: Tree) -> Found:
        key = tuple(sorted((path, content.digest if content else b"") for path, content in tree.items()))
        if key not in self.seen:
            self.put(tree)
            finals = {path: one.digest for path, one in tree.items() if one and not is_temporary_path(path)}
            saves = {path: self._save_at(path, digest) for path, digest in finals.items()}
            candidates = newest_first(os.path.join(self.root, CHECKPOINTS), "model")
            found = newest_intact(lambda: candidates)
            self.seen[key] = Found(saves, found.path if found else "")
        return self.seen[key]

    def put(self, tree: Tree) -> None:
        wanted = {path: content.digest if content else b"" for path, content in tree.items()}
        for path in sorted(self._there, reverse=True):
            if wanted.get(path) != self._there[path]:
                where = os.path.join(self.root, path)
                (os.unlink if self._there[path] else os.rmdir)(where)
        for path in sorted(wanted):
            where, content = os.path.join(self.root, path), tree[path]
            if self._there.get(path) == wanted[path]:
                continue
            if content is None:
                os.mkdir(where)
            else:
                Path(where).write_bytes(content.data)
        self._there = wanted

    def _save_at(self, path: str, digest: bytes) -> int | str:
        if digest not in self._saves:
            self._saves[digest] = save_in(os.path.join(self.root, path))
        return self._saves[digest]


def is_temporary_path(path: str) -> bool:
    return is_temporary(os.path.basename(path))


def save_in(path: str) -> int | str:
    """The number of the save that a file holds, or what is wrong with it."""
    verdict = verification.verify(path)
    if verdict.status is not Status.INTACT:
        return f"{verdict.status}: {verdict.reason}"
    directory, name = os.path.split(path)
    try:
        if "_model_" in name:
            state = torch.load(path, weights_only=True)
        else:
            state = checkpointer_for("", load_dir=directory, load_filename=name).load().module_interface_state
    except MarlinError as error:
        return str(error)
    expected = state_of(state["save"])
    is_same = torch.equal(state["weight"], expected["weight"]) and torch.equal(
        state.get("frozen", FROZEN), FROZEN
    )
    return state["save"] if is_same else "other values"


def faults(
    trace: list[Call], finder: Finder, samples: int = 0, first: int = 0, last: int | None = None
) -> Iterator[str]:
    """What is wrong in the states that a power loss after one of the calls `first` to `last` can leave."""
    disk, promises, rng = Disk(), Promises(), random.Random(SEED)
    for number, call in enumerate(trace[: None if last is None else last + 1]):
        disk.do(call)
        promises.note(call)
        by_chance = (disk.random(rng) for _ in range(samples))
        for tree in itertools.chain(disk.systematic(), by_chance) if number >= first else ():
            for fault in promises.broken_by(finder.look(tree)):
                yield f"after call {number}, a {type(call).__name__}: {fault}"
