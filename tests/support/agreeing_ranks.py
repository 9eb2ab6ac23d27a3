"""What the ranks of tests/unit/distributed/test_ranks.py do."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from marlin_ckpt.distributed import roll_call
from marlin_ckpt.distributed.failures import together
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import CorruptCheckpointError, MarlinError, RankError
from tests.support.rank_modules import free_port

LENGTHS_TOLD = [*range(470, 530), 100_000]  # with and without a second round


def agree() -> dict:
    ranks = Ranks()
    return {
        "most": ranks.most(ranks.rank, -ranks.rank),
        "least": ranks.least(ranks.rank),
        "total": ranks.total(0.5, ranks.rank),
        "alike": ranks.are_alike(7, 2**62),
        "differ": ranks.are_alike(7, ranks.rank),
        "told": [ranks.told({"by": ranks.rank}), ranks.told("x" * ranks.rank, by=1)],
        "lengths": [
            len(ranks.told(b"z" * length if ranks.rank == 2 else None, by=2)) for length in LENGTHS_TOLD
        ],
        "gathered": [len(one) for one in ranks.gathered(b"y" * ranks.rank) or []],
    }


def fail_at(failing: list[int], kind: str) -> list:
    """Fails at some ranks; returns what this rank raises, and what it does afterwards."""
    ranks = Ranks()

    def work() -> int:
        if ranks.rank in failing:
            if kind == "ours":
                raise CorruptCheckpointError("the CRC does not hold", "a.dcp", tensors=("weight",))
            raise KeyError("weight")
        return ranks.rank

    try:
        return ["", "", together(ranks, work)]
    except (MarlinError, KeyError) as error:
        return [type(error).__name__, str(error), together(ranks, lambda: ranks.rank)]


def lose_one(lost: int) -> list[str]:
    """One rank is killed: what the others raise; then they agree without it no more."""
    ranks = Ranks(timeout_s=600)  # which none of them waits for
    ranks.meet()
    if ranks.rank == lost:
        os.kill(os.getpid(), signal.SIGKILL)
    found = []
    for act in (ranks.meet, ranks.meet, ranks.renew, ranks.meet, ranks.mend):
        try:
            act()
        except RankError as error:
            found.append(str(error))
    sys.stderr.write(f"{found}\n")
    sys.stderr.flush()
    os._exit(3)


def lose_main() -> list[str]:
    """Rank 0 is killed, and with it the store in which the ranks have met: what the others raise."""
    ranks = Ranks()
    port = ranks.told(free_port())
    rank, size = ranks.rank, ranks.world_size
    dist.barrier()
    dist.destroy_process_group()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    ranks = Ranks()
    ranks.meet()
    if ranks.is_main:
        os.kill(os.getpid(), signal.SIGKILL)
    found = []
    for act in (ranks.meet, ranks.renew):
        try:
            act()
        except RankError as error:
            found.append(str(error))
    (Path(os.environ["RANKS_RESULTS"]) / f"result-{rank}").write_text(json.dumps(found))
    os._exit(3)


def come_late() -> list[str]:
    """Rank 1 comes last to a meeting: what rank 0 logs meanwhile."""
    roll_call.PATIENCE_S = 0.0
    ranks, said = Ranks(), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("marlin_ckpt").addHandler(handler)
    store = roll_call.store()
    if ranks.rank == 1:
        store.wait(["said"], timedelta(seconds=60))
    elif ranks.is_main:
        handler.emit = lambda record: (said.append(record.getMessage()), store.set("said", ""))
    ranks.renew()
    ranks.meet()
    return said
