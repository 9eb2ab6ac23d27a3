"""Stops one of the ranks that save together, for longer than the others wait; see rank_kills.py."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

from tests.support.async_child import run
from tests.support.rank_kills import ONE_NAME, Team, judged
from tests.support.saving_numbers import SHORT_S


def stop_again_and_again(directory: str, times: int) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(("stops", "failed", "at_some", "durable"), 0)
    found |= {"torn": [], "lost": [], "unlike": []}
    rng, first = random.Random(20261127), 1
    for stop in range(times):
        world_size = 2 + stop % 2
        victim, about = stop % world_size, [stop, world_size]
        team = Team(directory, "halves", world_size, first, is_over=True)
        team.wait(lambda team=team: all(team.durable.values()))
        began = time.monotonic()
        team.wait(lambda team=team: all(len(one) > 1 for one in team.durable.values()))
        team.go_on(rng.uniform(0, 2 * (time.monotonic() - began)))
        os.kill(team.pids[victim], signal.SIGSTOP)
        team.go_on(1.5 * SHORT_S)
        while_stopped = judged(directory, is_stock=False)
        stands = _permitted(team)
        os.kill(team.pids[victim], signal.SIGCONT)
        at = team.begun
        team.wait(lambda team=team, at=at: all(one[-1] > at for one in team.durable.values()))
        team.kill([*range(world_size)])
        for held, permitted in (
            (while_stopped, stands),
            (judged(directory, is_stock=False), _permitted(team)),
        ):
            there = held.get(ONE_NAME, "nothing")
            if isinstance(there, str) or len(held) > 1:
                found["torn"].append([*about, held])
            elif there not in permitted:
                found["lost"].append([*about, there, [*permitted]])
        texts = [text for one in team.errors.values() for _, text in one]
        if not all(text.startswith("RankError: ") for text in texts):
            found["unlike"].append([*about, victim, texts])
        found["stops"] += 1
        found["failed"] += bool(texts)
        failed = [{number for number, _ in one} for one in team.errors.values()]
        found["at_some"] += len(set.union(*failed)) - len(set.intersection(*failed))
        found["durable"] += len(team.durable[0])
        first = team.begun + 1
    return found


def _permitted(team: Team) -> range:
    """The saves that may stand: the last one that was reported, and later ones, published though they failed.

    Where the rank that publishes is stopped just after that, the others give a save up that is there, whole.
    """
    return range(max(one[-1] for one in team.durable.values()), team.begun + 1)


if __name__ == "__main__":
    run({"stops": stop_again_and_again})
