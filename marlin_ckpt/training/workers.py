"""The worker processes of a data loader: the seeds of their random numbers, and the signals they obey."""

import functools
import multiprocessing
import os
import signal
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from marlin_ckpt.training.resume import rng

_LOOK_S = 2.0


class _Seeding:
    """Collates batches, and seeds the worker for each batch by its number, whichever worker makes it."""

    def __init__(self, collate: Callable[[Any], Any], seed: int, first: int) -> None:
        self.collate = collate
        self._seed = seed
        self._next = first

    def __call__(self, samples: Any) -> Any:
        batch = self.collate(samples)
        info = get_worker_info()
        if info is not None:
            self._next += info.num_workers
            self._seed_for_next()
        return batch

    def begin(self, worker: int) -> None:
        """Called in a worker before its first batch; the workers make batches in turn."""
        self._next += worker
        self._seed_for_next()

    def _seed_for_next(self) -> None:
        rng.seed_all(rng.derived(self._seed, self._next))


def _obey_parent() -> None:
    """Receives each SIGTERM; ends the process when the loader itself has sent it, or the trainer has died.

    torch's worker watches its trainer too, but when a trainer is killed while it ends its loader, the worker
    waits for ever for a lock that the trainer held, and keeps memory and pipes.
    """
    # Two processes where a server forks the workers.
    trainer, parent = multiprocessing.parent_process(), os.getppid()
    if trainer is None:
        return
    told = None
    while trainer.is_alive() and os.getppid() == parent and (told is None or told.si_pid != trainer.pid):
        told = signal.sigtimedwait({signal.SIGTERM}, _LOOK_S)
    os._exit(0)


def _begin(users: Callable[[int], None] | None, seeding: _Seeding | None, worker: int) -> None:
    """Sets up a worker process, when it begins."""
    # A terminal, SLURM and Kubernetes signal the whole group; the trainer still needs its batches.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()
    if users is not None:
        users(worker)
    if seeding is not None:
        seeding.begin(worker)


def prepare(loader: Any, seed: int | None = None, first: int = 0) -> None:
    """Sets up the workers that a loader will start; does nothing for a loader without workers.

    Args:
        loader: any iterable.
        seed: from which the random numbers of its workers are derived; None leaves them to the loader.
        first: the number of the first batch that they will make.
    """
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return
    collate, begin = loader.collate_fn, loader.worker_init_fn
    if isinstance(collate, _Seeding):  # the same loader, an epoch later
        collate = collate.collate
    if isinstance(begin, functools.partial) and begin.func is _begin:
        begin = begin.args[0]
    seeding = None if seed is None else _Seeding(collate, seed, first)
    loader.collate_fn = collate if seeding is None else seeding
    loader.worker_init_fn = functools.partial(_begin, begin, seeding)


def end(loader: Any, batches: Iterator[Any], *, is_kept: bool) -> None:
    """Ends what makes batches for an iterator that is not used any more: worker processes, a generator.

    Args:
        loader: that the iterator is of.
        batches: the iterator.
        is_kept: leave the workers that the loader keeps for its next epoch.
    """
    if isinstance(batches, types.GeneratorType) and batches is not loader:
        batches.close()
    shut_down = getattr(batches, "_shutdown_workers", None)
    if shut_down is None or (is_kept and getattr(loader, "_iterator", None) is batches):
        return
    shut_down()
    if getattr(loader, "_iterator", None) is batches:
        loader._iterator = None  # noqa: SLF001 - else its next epoch would wait for workers that have ended
