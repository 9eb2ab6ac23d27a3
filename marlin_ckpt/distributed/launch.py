"""How a process finds the others of its run, and parts from them: torchrun's environment, and the group."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from marlin_ckpt.distribution import DistributedTrainingArguments
from marlin_ckpt.errors import ConfigError, Fault, TrainingError

# torchrun kills what is left 30 s after it has asked for the end.
PART_S = 15.0
COMMAND = "torchrun --nproc-per-node 4 -m marlin_ckpt train --config F"

_parting: list[Any] = []  # the group over which the ranks part, of a process group that `begin` made


def launched(environment: Mapping[str, str] = os.environ) -> DistributedTrainingArguments | None:
    """Which process of its run this one is, as torchrun says; None where nothing says it.

    Args:
        environment: of the process.
    """
    names = "RANK", "WORLD_SIZE"
    if not all(environment.get(name, "").isascii() and environment.get(name, "").isdigit() for name in names):
        return None
    rank, world_size = (int(environment[name]) for name in names)
    local = environment.get("LOCAL_RANK", "")
    return DistributedTrainingArguments(
        local_rank=int(local) if local.isascii() and local.isdigit() else 0,
        global_rank=rank,
        world_size=world_size,
    )


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
        ConfigError: nothing says it.
    """
    found = given or launched()
    if dist.is_available() and dist.is_initialized():  # by somebody else, whose numbers hold
        local = found.local_rank if found is not None else 0
        return DistributedTrainingArguments(local, dist.get_rank(), dist.get_world_size())
    if found is None:
        fault = Fault("trainer.backend", f"{backend} trains in several processes, and this is one by itself")
        raise ConfigError([fault], f"start them by: {COMMAND}")
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
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if is_by_nccl else "gloo",
            init_method=where.init_method,
            rank=where.global_rank,
            world_size=where.world_size,
        )
    except (RuntimeError, ValueError) as error:
        hint = f"start all processes by: {COMMAND}"
        raise TrainingError(f"the ranks do not find each other: {error}", hint=hint) from error
    _parting.append(dist.new_group(backend="gloo"))
    atexit.register(_at_exit)


def end(deadline_s: float = PART_S) -> None:
    """Waits until all ranks have come here, and ends the process group, if `begin` made it.

    A rank that ends its group while others still use theirs would abort them.

    Args:
        deadline_s: how long it waits; then the group is left to the end of the process.
    """
    if not _parting:
        return
    group = _parting.pop()
    with contextlib.suppress(RuntimeError):
        dist.monitored_barrier(group, timeout=timedelta(seconds=deadline_s))
        dist.destroy_process_group()


def abandon() -> None:
    """Has the process end without waiting for the others, which do not come: this one has failed."""
    _parting.clear()


def _at_exit() -> None:
    if getattr(sys, "last_value", None) is not None:  # an error that nobody caught
        abandon()
    end()
