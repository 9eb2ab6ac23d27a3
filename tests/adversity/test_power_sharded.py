"""What is left of a sharded checkpoint that two ranks save if the power goes at any moment."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import marlin_ckpt
from marlin_ckpt.directory import leftovers
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.directory.newest import newest_intact
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.saving import save_sharded
from marlin_ckpt.storage.local import staging, writer
from tests.support import turn_ranks
from tests.support.folder_checkpoints import about, staged
from tests.support.power_loss import Call, Disk, Sync, Tree
from tests.support.recorded_calls import Recorder

RANKS = 2
PLACE = "runs/first"  # made by the first save
NAMES = [f"{PLACE}/m_{index}.dcp" for index in (1, 1, 2, 1, 2, 1)]  # the second one replaces the first
SAVES = {"exchange": 6, "renames": 3}  # with so many each way has thousands of states
WITHIN = [".marlin", ".marlin/manifest.json", ".metadata", "__0_0.distcp", "__1_0.distcp"]
# What each save must have made durable, by the names at the end.
NEEDED = [PLACE, NAMES[0], *(f"{NAMES[0]}/{name}" for name in WITHIN)]


def state_of(number: int, rank: int) -> dict:
    own = {str(rank): {"rng": torch.full((150,), number), "position": [number, rank]}}
    return {"number": number, "whole": torch.full((9000,), float(number)), "ranks": own}


@dataclass
class Recorded:
    """The calls of some saves.

    Attributes:
        trace: the calls.
        done: after how many of them each save was reported.
        folders: what each save consists of, by path in its folder.
    """

    trace: list[Call] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    folders: list[Tree] = field(default_factory=list)

    def without(self, number: int) -> Recorded:
        """The same without a call."""
        trace = self.trace[:number] + self.trace[number + 1 :]
        return Recorded(trace, [at - (at > number) for at in self.done], self.folders)


def record(root: Path, way: str, saves: int) -> Recorded:
    root.mkdir()
    found = Recorded()
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(str(root), patch)
        found.trace = recorder.trace
        if way == "renames":
            patch.setattr(staging, "exchange", refuse)
            patch.setattr(writer, "_LARGE_BYTES", 0)  # past the page cache, too
        plans = [SavePlans() for _ in range(RANKS)]
        for number, name in enumerate(NAMES[:saves]):

            def save(ranks: Ranks, number: int = number, name: str = name) -> None:
                state = state_of(number, ranks.rank)
                save_sharded(state, root / name, ranks, plans[ranks.rank], about(number))

            turn_ranks.run(RANKS, save)
            found.done.append(len(recorder.trace))
            found.folders.append(within(whole(recorder.trace), name))
    there = {str(path.relative_to(root)): path for path in root.rglob("*")}
    assert {path: one and one.data for path, one in whole(found.trace).items()} == {
        name: path.read_bytes() if path.is_file() else None for name, path in there.items()
    }
    assert ("exchange" in recorder.names) == (way == "exchange" and saves > 1)
    return found


def refuse(*_):
    raise OSError(22, "Invalid argument")


def whole(trace: list[Call]) -> Tree:
    disk = Disk()
    for call in trace:
        disk.do(call)
    return disk.whole()


def within(tree: Tree, name: str) -> Tree:
    """What is in a folder, by path in it."""
    return {path[len(name) + 1 :]: one for path, one in tree.items() if path.startswith(f"{name}/")}


@pytest.fixture(scope="module", params=SAVES)
def recorded(request, tmp_path_factory, cases) -> Recorded:
    return record(tmp_path_factory.mktemp("recorded") / "disk", request.param, cases(2, SAVES[request.param]))


class Campaign:
    """Looks at each state that a power loss can leave, once."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.seen: set[tuple] = set()
        self.distinct: dict[tuple, Tree] = {}  # a state for each set of names, and of what has a final one

    def faults(self, first: int = 0, last: int | None = None, samples: int = 0) -> Iterator[str]:
        """What is wrong in the states after some of the calls."""
        recorded, disk, rng = self._recorded, Disk(), random.Random(20261127)
        for at, call in enumerate(recorded.trace, 1):
            disk.do(call)
            if not first <= at <= (last or len(recorded.trace)):
                continue
            reported = {NAMES[number]: number for number, end in enumerate(recorded.done) if end <= at}
            for tree in itertools.chain(disk.systematic(), (disk.random(rng) for _ in range(samples))):
                key = (*reported.items(), *((path, one and one.digest) for path, one in sorted(tree.items())))
                if key in self.seen:
                    continue
                self.seen.add(key)
                there = {name: self.found(tree, name) for name in dict.fromkeys(NAMES)}
                self.distinct.setdefault((frozenset(tree), *there.values()), tree)
                for name, one in there.items():
                    if isinstance(one, str) or one < reported.get(name, -1):
                        yield f"after call {at}, {call}: {name}: {one}, not {reported.get(name, 'none')}"

    def found(self, tree: Tree, name: str) -> int | str:
        """The number of the save that has a name in a tree, -1 for none; or what is wrong with it."""
        if name not in tree:
            place, last = os.path.split(name)
            name = f"{place}/.{last}.marlin-old"  # to which the next start gives its name back
            if name not in tree:
                return -1
        folder = within(tree, name)
        for number, own in enumerate(self._recorded.folders):
            if folder == own:
                return number
        return f"{sorted(folder)}, as in no save"


def test_a_power_loss_at_any_moment_leaves_each_folder_that_was_reported_or_a_later_one_whole(
    recorded, tmp_path, cases
):
    campaign = Campaign(recorded)
    assert list(itertools.islice(campaign.faults(samples=cases(20, 60)), 5)) == []
    states = len(campaign.seen)
    assert states >= cases(500, 5000)
    # What the library finds in them, before and after it has cleared up.
    distinct = [*campaign.distinct.values()]
    some = distinct[:: 1 + len(distinct) // cases(6, 300)]
    for number, tree in enumerate(some):
        root = tmp_path / str(number)
        put(tree, root)
        held = {campaign.found(tree, name) for name in NAMES} - {-1}
        newest = newest_intact(lambda place=root / PLACE: newest_first(place, "m"))
        assert newest is None or load(newest.path)[0] in held
        leftovers.sweep(str(root / PLACE), leftovers._logger)
        left = {load(one.path)[0] for one in newest_first(root / PLACE, "m")}
        assert left == held
        assert not (root / PLACE).exists() or staged(root / PLACE) == []
        shutil.rmtree(root)
    assert len(some) >= cases(3, 100)


def put(tree: Tree, root: Path) -> None:
    root.mkdir()
    for path, one in sorted(tree.items()):
        if one is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(one.data)


def load(path: str) -> tuple[int, set[int]]:
    """The number of the save that is in a folder."""
    state = marlin_ckpt.load(path)
    ranks = state["ranks"].values()
    parts = {*state["whole"].tolist(), *(one["position"][0] for one in ranks)}
    parts |= {number for one in ranks for number in one["rng"].tolist()}
    assert parts == {state["number"]}
    return state["number"], parts


@pytest.mark.parametrize("way", SAVES)
def test_without_any_one_of_its_fsyncs_a_save_could_be_lost_or_torn(tmp_path, way):
    recorded = record(tmp_path / "disk", way, 2)
    noticed: list[list[str]] = [[], []]
    for number, call in enumerate(recorded.trace):
        if isinstance(call, Sync):
            save = int(number >= recorded.done[0])
            without = recorded.without(number)
            if any(Campaign(without).faults(first=without.done[save], last=without.done[save])):
                noticed[save].append(re.sub(r"/\.(m_1\.dcp)\.[^/]*marlin-tmp", r"/\1", call.path))
    assert sorted(noticed[0]) == sorted([".", "runs", *NEEDED])
    assert sorted(noticed[1]) == sorted(NEEDED)
