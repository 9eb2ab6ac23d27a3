"""The worker processes of a data loader: the seeds of their random numbers, and the signals they obey."""

import atexit
import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling

from marlin_ckpt.training.resume import rng

_LOOK_S = 2.0
LEFT_S = 5.0  # for which workers are given to end, before they are killed
_PR_SET_PDEATHSIG = 1  # prctl(2)
_is_forked_by_main = False
# The iterators whose workers were not ended yet, with the process that has started these.
_running: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def _note_thread() -> None:
    global _is_forked_by_main  # noqa: PLW0603 - what a forked process knows of its parent
    _is_forked_by_main = threading.current_thread() is threading.main_thread()


os.register_at_fork(before=_note_thread)


def _die_with_parent() -> None:
    """Has the kernel kill this process when its parent has died, even where no thread of Python runs.

    The parent is the thread that has forked. So this is done where that was the main one, which lives as long
    as its process.
    """
    trainer = multiprocessing.parent_process()
    if not _is_forked_by_main or trainer is None or os.getppid() != trainer.pid:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != trainer.pid:  # it has died before that
        os._exit(0)


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
    _die_with_parent()
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


def iterate(loader: Iterable[Any]) -> Iterator[Any]:
    """Begins to iterate over a loader; its workers will end with this process, whatever they do then.

    Args:
        loader: that was prepared.
    """
    batches = iter(loader)
    if getattr(batches, "_workers", None):
        atexit.unregister(_end_all)
        atexit.register(_end_all)  # after torch's own, and so before it
        _running[batches] = os.getpid()
    return batches


def end(loader: Any, batches: Iterator[Any], *, is_kept: bool) -> None:
    """Ends what makes batches for an iterator that is not used any more: worker processes, a generator.

    A worker that does not end is killed after a few seconds: it may be stuck in a sample.

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
    _running.pop(batches, None)
    _let_die(batches)
    timer = threading.Timer(LEFT_S, _kill, [_alive(batches)])
    timer.daemon = True
    timer.start()
    try:
        shut_down()
    finally:
        timer.cancel()
        _kill(_alive(batches))
    if getattr(loader, "_iterator", None) is batches:
        loader._iterator = None  # noqa: SLF001 - else its next epoch would wait for workers that have ended


def _alive(batches: Any) -> list[Any]:
    return [one for one in getattr(batches, "_workers", ()) if one.is_alive()]


def _let_die(batches: Any) -> None:
    """Has torch not raise where a worker is killed."""
    if getattr(batches, "_worker_pids_set", False):
        remove: Any = vars(signal_handling)["_remove_worker_pids"]  # as its own shutdown does
        remove(id(batches))
        batches._worker_pids_set = False  # noqa: SLF001 - as above


def _kill(workers: list[Any]) -> None:
    for one in workers:
        with contextlib.suppress(OSError, ValueError):  # it has ended, and its object was closed
            one.kill()


def _end_all() -> None:
    """Ends at exit the workers that are left: Python waits for them, however long they take."""
    own = [batches for batches, process in _running.items() if process == os.getpid()]
    left = [one for batches in own for one in _alive(batches)]
    for batches in own:
        _let_die(batches)
    for one in left:
        one.terminate()
    until = time.monotonic() + LEFT_S
    for one in left:
        one.join(max(until - time.monotonic(), 0))
    _kill([one for one in left if one.is_alive()])
