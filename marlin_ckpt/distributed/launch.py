"""How a process finds the others of its run, and parts from them: torchrun's environment, and the group."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from marlin_ckpt.distribution import DistributedTrainingArguments
from marlin_ckpt.errors import ConfigError, Fault, TrainingError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.operations.launched import COMMAND, has_store, launched

# torchrun kills what is left 30 s after it has asked for the end.
PART_S = 15.0
_SOON_S = 20.0  # in which ranks that were started together have found each other
_ASK_S = 5.0  # for which the ranks' store is asked which of them has failed first

_logger = get_logger(__name__)

_parting: list[Any] = []  # the group over which the ranks part, of a process group that `begin` made
_asked: list[Any] = []  # the store for that question, connected to while it is there, one at most


def is_main() -> bool:
    """Whether this process is rank 0, or alone; also before the process group is made."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    found = launched()
    return found is None or "MASTER_ADDR" not in os.environ or found.global_rank == 0


def place(backend: str, given: DistributedTrainingArguments | None) -> DistributedTrainingArguments:
    """Which process of its run this one is.

    Args:
        backend: the trainer's, for the error.
        given: what the caller has been told; None: what torchrun says.

    Raises:
        ConfigError: nothing says it, or it cannot be.
    """
    found = given or launched()
    if dist.is_available() and dist.is_initialized():  # by somebody else, whose numbers hold
        local = found.local_rank if found is not None else 0
        return DistributedTrainingArguments(local, dist.get_rank(), dist.get_world_size())
    if found is None:
        fault = Fault("trainer.backend", f"{backend} trains in several processes, and this is one by itself")
        raise ConfigError([fault], f"start them by: {COMMAND} train --config F")
    if found.global_rank >= found.world_size:
        fault = Fault(
            "RANK", f"is {found.global_rank}, and WORLD_SIZE {found.world_size}: the first rank is 0"
        )
        raise ConfigError([fault])
    return found


def begin(where: DistributedTrainingArguments, device: torch.device) -> None:
    """Makes the process group, unless there is one; `end` ends it, at the latest when the process exits.

    Args:
        where: this process.
        device: that it trains on.

    Raises:
        TrainingError: the other processes cannot be reached.
    """
    if not dist.is_available():
        raise TrainingError("this torch has no torch.distributed")
    if dist.is_initialized():
        return
    is_by_nccl = device.type == "cuda" and where.backend != "gloo"
    with _waiting(where):
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if is_by_nccl else "gloo",
                rank=where.global_rank,
                world_size=where.world_size,
                **_meeting_by(where.init_method),
            )
        except (RuntimeError, ValueError) as error:
            hint = f"start all by {COMMAND} train --config F, or set MASTER_ADDR and MASTER_PORT to a free "
            hint += "port of rank 0's machine, the same for all"
            raise TrainingError(f"the ranks do not find each other: {error}", hint=hint) from error
        _parting.append(dist.new_group(backend="gloo"))
        with contextlib.suppress(KeyError, ValueError, RuntimeError):
            _asked[:] = [_store(timedelta(seconds=_ASK_S))]
    atexit.register(_at_exit)


@contextlib.contextmanager
def _waiting(where: DistributedTrainingArguments) -> Iterator[None]:
    """Lets a signal end the process meanwhile, and says what it waits for where that takes long.

    torch waits for half an hour for a rank that was not started, and no handler of Python's is called in it.
    """
    there = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    said = "Rank %d waits for the others of %d ranks, at %s."
    told = threading.Timer(_SOON_S, _logger.warning, (said, where.global_rank, where.world_size, there))
    told.daemon = True
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        numbers = signal.SIGTERM, signal.SIGINT
        # Of a handler that Python has not set nothing is known by which it could be set again.
        before = {one: handler for one in numbers if (handler := signal.getsignal(one)) is not None}
    try:
        if where.local_rank == 0:
            told.start()
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        yield
    finally:
        told.cancel()
        for one, handler in before.items():
            signal.signal(one, handler)


def _meeting_by(init_method: str) -> dict[str, Any]:
    """How the processes meet: as `init_method` says, but in torchrun's own store under a name of this start.

    torchrun keeps its store when it starts its processes again, and in that the addresses of the dead ones.
    """
    if init_method != "env://" or not has_store():
        return {"init_method": init_method}
    store = _store(default_pg_timeout)
    return {"store": dist.PrefixStore(f"marlin_ckpt/start_{_start()}", store)}  # type: ignore[attr-defined]


def _store(limit: timedelta) -> Any:
    """The store at the address that the environment names, which another process has."""
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(*where, is_master=False, timeout=limit)  # type: ignore[attr-defined]


def _start() -> str:
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def end(deadline_s: float = PART_S) -> None:
    """Waits until all ranks have come here, and ends the process group, if `begin` made it.

    A rank that ends its group while others still use theirs would abort them. Once all have come, SIGTERM and
    SIGINT have no effect: torchrun sends one to the others as soon as the first has ended with a code for a
    signal, and theirs would be lost.

    Args:
        deadline_s: how long it waits; then the group is left to the end of the process.
    """
    if not _parting:
        return
    group = _parting.pop()
    with contextlib.suppress(RuntimeError):
        dist.monitored_barrier(group, timeout=timedelta(seconds=deadline_s))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        dist.destroy_process_group()


def abandon() -> None:
    """Has the process end without waiting for the others, which do not come: this one has failed."""
    _parting.clear()


def is_joined() -> bool:
    """Whether this process has found the others."""
    return dist.is_available() and dist.is_initialized()


def is_first() -> bool:
    """Whether no other rank has called this since the ranks were started; all ask the store of their launch.

    Where this gets no answer, it was the first.
    """
    try:
        store = _asked[0] if _asked else _store(timedelta(seconds=_ASK_S))
        count: int = store.add(f"marlin_ckpt/failed/{_start()}", 1)
    except (KeyError, ValueError, RuntimeError):
        return True
    return count == 1


def _at_exit() -> None:
    if getattr(sys, "last_value", None) is not None:  # an error that nobody caught
        abandon()
    end()
