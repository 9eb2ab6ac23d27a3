"""Which ranks still answer after a collective has failed, so that the error can name those that do not."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

# The others fail at about the same time, unless they are busy with their own part: those count as missing.
PATIENCE_S = 5.0
_STORE_S = 10.0  # for one answer of the store itself
_POLL_S = 0.02


def missing(group: str, rank: int, world_size: int, patience_s: float = PATIENCE_S) -> list[int]:
    """Answers for this rank, and waits for the answers of the others.

    It goes by the store in which the ranks first met, and not by a group, which one that is missing breaks.

    Args:
        group: the name of the group that has failed; each has one roll call.
        rank: of this process.
        world_size: the number of ranks.
        patience_s: for how long, in seconds.

    Returns:
        the ranks that have not answered; none where the store does not answer either.
    """
    absent = [one for one in range(world_size) if one != rank]
    try:
        default: Any = dist.distributed_c10d._get_default_store()  # noqa: SLF001 - there is no other way
        store = default.clone()
        store.set_timeout(timedelta(seconds=_STORE_S))
        store.set(_key(group, rank), b"1")
        deadline = time.monotonic() + patience_s
        while True:
            absent = [one for one in absent if not store.check([_key(group, one)])]
            if not absent or time.monotonic() > deadline:
                return absent
            time.sleep(_POLL_S)
    except RuntimeError:  # its server has gone, with rank 0 or with torchrun
        return []


def _key(group: str, rank: int) -> str:
    return f"marlin-ckpt/{group}/{rank}"


def in_words(ranks: Iterable[int], timeout_s: float) -> str:
    """What is known of the ranks that are missing, for a message."""
    names = list(map(str, ranks))
    who = "another rank has"
    if len(names) == 1:
        who = f"rank {names[0]} has"
    elif names:
        who = f"the ranks {', '.join(names[:-1])} and {names[-1]} have"
    return f"{who} ended, or did not answer within {timeout_s:g} s"
