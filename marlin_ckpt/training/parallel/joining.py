"""Finds the other ranks of a run, when a trainer is made or before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from marlin_ckpt.arguments import ON_MANY, TrainerArguments
from marlin_ckpt.distributed import launch
from marlin_ckpt.distributed.failures import of_all, told_by_main
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import ConfigError, Fault
from marlin_ckpt.training import setting
from marlin_ckpt.training.backend import TrainerBackend
from marlin_ckpt.training.parallel.backends import RanksTrainerBackend
from marlin_ckpt.training.resume import rng

# Rank 0 may write a large file, or one rank make its first batch, while the others wait for it.
_PATIENCE_S = 1800.0


def join(args: TrainerArguments, backend: TrainerBackend | None = None) -> tuple[Ranks, torch.device]:
    """The ranks of a run, and the device of this one; makes the process group where there is none.

    With a backend for one process that is this process alone, whatever process group there is.

    Args:
        args: the trainer's; `distributed_training_args` is set where it is not, as PyMarlin does.
        backend: what runs the steps; None: what `args.backend` names.

    Raises:
        ConfigError: nothing has started other processes, or these are more than the samples of a step.
        TrainingError: they cannot be reached, or the device is not there.
    """
    is_many = args.backend in ON_MANY if backend is None else isinstance(backend, RanksTrainerBackend)
    if not is_many:
        return Ranks.alone(), setting.device_of(args)
    name = args.backend if args.backend in ON_MANY else type(backend).__name__
    where = launch.place(name, args.distributed_training_args)
    args.distributed_training_args = where
    device = setting.device_of(args, where.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    launch.begin(where, device)
    # Before a group is made: a rank that fails right after that closes it while others still join.
    if args.train_batch_size < where.world_size:
        what = f"{args.train_batch_size} samples are too few for {where.world_size} ranks"
        fault = Fault("trainer.train_batch_size", what)
        raise of_all(ConfigError([fault], "it is of all ranks together: raise it, or start fewer"))
    return Ranks(_PATIENCE_S), device


def by_main(args: TrainerArguments) -> Callable[[Callable[[], Any]], Any]:
    """Finds the other ranks; gives what calls a function at rank 0 alone, whose result or error all have.

    Args:
        args: the trainer's.

    Raises:
        As `join` does.
    """
    ranks, _ = join(args)
    return partial(told_by_main, ranks)


def seed_module(args: TrainerArguments, ranks: Ranks) -> None:
    """Seeds what a module draws when it is made, at all ranks alike.

    Args:
        args: the trainer's.
        ranks: that all call this.
    """
    setting.before_module(args)
    if args.seed is None and ranks.world_size > 1:
        rng.seed_all(ranks.told(int(torch.randint(2**31, ()))))


def seed_training(args: TrainerArguments, ranks: Ranks) -> int:
    """Seeds what training draws, at each rank otherwise; returns the seed of the data's order.

    Args:
        args: the trainer's.
        ranks: that all call this.
    """
    seed: int = ranks.told(setting.before_training(args))
    if ranks.rank:
        rng.seed_all(rng.derived(seed, "training", ranks.rank))
    return seed


def level(name: str, ranks: Ranks) -> int:
    """The lowest level that a rank's trainer logs: what it says is true of all ranks, and rank 0 says it.

    Args:
        name: that the arguments have.
        ranks: of the run.
    """
    return logging.getLevelNamesMapping()[name] if ranks.is_main else logging.CRITICAL
