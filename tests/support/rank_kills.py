"""Kills ranks that save sharded checkpoints, at random moments, and prints, as JSON, what that left.

A process of its own, from which the ranks are forked, so that torch is imported once:
`python rank_kills.py DIRECTORY KIND=TIMES ...`. Each time two or three ranks save one number after the other
until one of them, or all, are killed; half of the times each save replaces the one before.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import re
import select
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.support.async_child import run
from tests.support.folder_checkpoints import staged
from tests.support.saving_numbers import KINDS, Place, held_by, save_forever

PATIENCE_S = 60.0
BY_TORCH = ("stock", "writer")  # torch's own `dcp.save` raises at each rank what gloo says there
ONE_NAME = "m_0.dcp"


class Team:
    """Ranks that save one number after the other, and what they tell of that.

    Attributes:
        begun: the greatest number of a save that has begun at any rank.
        durable: by rank, the numbers of the saves that it was told have ended well.
        errors: by rank, the numbers of the saves that failed there, and what it raised.
    """

    def __init__(self, directory: str, kind: str, world_size: int, first: int, *, is_over: bool) -> None:
        self.begun, self.has_begun = first, False
        self.durable: dict[int, list[int]] = {rank: [] for rank in range(world_size)}
        self.errors: dict[int, list[tuple[int, str]]] = {rank: [] for rank in range(world_size)}
        self._lines, tell = os.pipe()
        self._rest = b""
        self.pids = []
        store = f"{directory}.store"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(store)
        for rank in range(world_size):
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(self._lines)
                    names = functools.partial(_path, directory, is_over)
                    place = Place(rank, world_size, store)
                    save_forever(kind, place, names, first, functools.partial(_tell, tell, rank))
                finally:
                    os._exit(70)
            self.pids.append(pid)
        os.close(tell)

    def read(self, until: float) -> bool:
        """Waits for what a rank tells; whether there was anything."""
        if not select.select([self._lines], [], [], max(0.0, until - time.monotonic()))[0]:
            return False
        data = os.read(self._lines, 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            rank, what, told = json.loads(line)
            if what == "durable":
                self.durable[rank].append(told)
            elif what == "begun":
                self.begun, self.has_begun = max(self.begun, told), True
            else:
                self.errors[rank].append(told)
        return bool(data)

    def wait(self, is_enough: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not is_enough():
            if not self.read(until):
                raise SystemExit(f"the ranks have ended by themselves or are stuck: {self.errors}")

    def go_on(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.read(until):
            pass

    def kill(self, victims: list[int]) -> list[int]:
        """Kills some ranks, and waits for the others; returns those that did not end by themselves."""
        for rank in victims:
            os.kill(self.pids[rank], signal.SIGKILL)
        until, stuck = time.monotonic() + PATIENCE_S, []
        while self.read(until):
            pass
        for rank, pid in enumerate(self.pids):
            if rank not in victims and os.waitpid(pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > until:
                    stuck.append(rank)
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            elif rank in victims:
                os.waitpid(pid, 0)
        os.close(self._lines)
        return stuck


def _tell(fd: int, rank: int, what: str, told: Any) -> None:
    os.write(fd, json.dumps([rank, what, told]).encode() + b"\n")  # whole, since it is short


def _path(directory: str, is_over: bool, number: int) -> str:
    return os.path.join(directory, ONE_NAME if is_over else f"m_{number}.dcp")


def judged(directory: str, *, is_stock: bool) -> dict[str, int | str]:
    """The number that each folder holds, or what is wrong with it."""
    names = sorted(name for name in os.listdir(directory) if name.startswith("m_"))
    return {name: held_by(os.path.join(directory, name), is_stock=is_stock) for name in names}


def _names(victims: list[int], error: str) -> bool:
    """Whether an error names the ranks that were killed; it may name others that were too busy to answer."""
    who = error.removeprefix("RankError: ").partition(" ended")[0]
    return error.startswith("RankError: ") and {*map(str, victims)} <= set(re.findall("[0-9]+", who))


class Kills:
    """Kills one team after the other in a directory, and notes what that left."""

    def __init__(self, directory: str, kind: str) -> None:
        self._directory, self._kind = directory, kind
        self._rng = random.Random(20261127)
        self._first, self._last = 1, 0  # the last one stands under the one name; 0: none does
        faults = ("torn", "lost", "left", "stuck", "unlike")
        self.found: dict[str, Any] = dict.fromkeys(("kills", "in_mid_save", "new", "durable", "survivors"), 0)
        self.found |= {one: [] for one in faults}

    def kill(self) -> None:
        found, number = self.found, self.found["kills"]
        world_size, is_over = 2 + number % 2, bool(number // 2 % 2)
        about = [number, world_size, "over" if is_over else "fresh"]
        leftovers = set(staged(self._directory))
        team = Team(self._directory, self._kind, world_size, self._first, is_over=is_over)
        self._wait(team)
        if any(team.durable.values()) and (stale := leftovers & set(staged(self._directory))):
            found["left"].append([*about, sorted(stale)])
        victims = [*range(world_size)] if self._rng.random() < 1 / 3 else [self._rng.randrange(world_size)]
        if stuck := team.kill(victims):
            found["stuck"].append([*about, victims, stuck])
        found["kills"] += 1
        texts = [text for one in team.errors.values() for _, text in one]
        found["survivors"] += len(texts)
        found["in_mid_save"] += bool(staged(self._directory))
        if self._kind not in BY_TORCH and not all(_names(victims, one) for one in texts):
            found["unlike"].append([*about, victims, texts])
        self._judge(team, about, is_over=is_over)
        self._first = team.begun + 1

    def _wait(self, team: Team) -> None:
        """Waits for a random moment: of the first save, in which all is planned, or of a later one."""
        if self._rng.random() < 1 / 4:
            team.wait(lambda: team.has_begun)
            team.go_on(self._rng.uniform(0, 0.1))
            return
        team.wait(lambda: all(team.durable.values()))
        began = time.monotonic()
        team.wait(lambda: all(len(one) > 1 for one in team.durable.values()))
        team.go_on(self._rng.uniform(0, 2 * (time.monotonic() - began)))

    def _judge(self, team: Team, about: list[Any], *, is_over: bool) -> None:
        found = self.found
        reported = sorted({number for one in team.durable.values() for number in one})
        found["durable"] += len(reported)
        held = judged(self._directory, is_stock=self._kind == "stock")
        for name, one in held.items():
            if isinstance(one, str) and (is_over or name != ONE_NAME):
                found["torn"].append([*about, name, one])
        if is_over:
            old = reported[-1] if reported else self._last
            there = held.get(ONE_NAME, 0)
            if there not in (old, max(old + 1, self._first)) and not isinstance(there, str):
                found["lost"].append([*about, old, there])
            found["new"] += there != old
            self._last = there if isinstance(there, int) else 0
            return
        for number in reported:
            if isinstance(there := held.get(f"m_{number}.dcp", 0), int) and there != number:
                found["lost"].append([*about, number, there])
        for name in set(held) - {ONE_NAME}:
            found["new"] += held[name] not in reported
            shutil.rmtree(os.path.join(self._directory, name))


def kill_again_and_again(directory: str, times: int, *, kind: str) -> dict[str, Any]:
    kills = Kills(directory, kind)
    for _ in range(times):
        kills.kill()
    return kills.found


if __name__ == "__main__":
    run({kind: functools.partial(kill_again_and_again, kind=kind) for kind in KINDS})
