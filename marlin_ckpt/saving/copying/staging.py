"""Copies a state, so that training may go on while the copy is written.

The copy is an image of the file: each storage is copied to the offset at which the file will hold it.
"""

import ctypes
import functools
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple, TypeVar

import torch
from isal import isal_zlib

from marlin_ckpt.formats.shards.items import BLOCK_BYTES
from marlin_ckpt.formats.torch.memory import memory

_TASK_BYTES = 4 << 20  # copied between two looks at what is left
_PATIENCE_S = 5.0  # how long to wait for a caller who neither steps nor waits: an evaluation may last an hour
_LOOK_AGAIN_S = 0.05  # between two checks whether the caller's thread still runs
Task = tuple[tuple[int, int, int], ...]  # the numbers of copies, where in them to begin, and how many bytes


class Copies(NamedTuple):
    """Bytes to be copied, in columns.

    Attributes:
        targets: the addresses they go to.
        sources: the addresses where they are.
        sizes: how many bytes.
    """

    targets: Sequence[int] = ()
    sources: Sequence[int] = ()
    sizes: Sequence[int] = ()


class Watched(NamedTuple):
    """Tensors that must not change until they are copied, in columns.

    Attributes:
        tensors: of which autograd counts the changes.
        versions: the counts when the save was asked for.
        storages: the identities of their storages.
    """

    tensors: Sequence[torch.Tensor] = ()
    versions: Sequence[int] = ()
    storages: Sequence[int] = ()

    def moved(self) -> list[int]:
        """The identities of the storages whose tensors have changed since."""
        now = list(map(version_of, self.tensors))
        if now == self.versions:
            return []
        return list(compress(self.storages, map(operator.ne, self.versions, now)))


_Columns = TypeVar("_Columns", Copies, Watched)


def chosen(columns: _Columns, flags: Iterable[bool]) -> _Columns:
    """The rows that have a flag."""
    flags = list(flags)
    if all(flags):
        return columns
    rows: Any = [list(compress(column, flags)) for column in columns]
    return type(columns)(*rows)


version_of: Callable[[torch.Tensor], int] = operator.attrgetter("_version")


class Copying:
    """Copies that any number of threads make together."""

    def __init__(
        self,
        copies: Copies,
        watched: Watched,
        wrong: Callable[[Collection[int]], Iterable[str]],
    ) -> None:
        """Takes the copies, which `work` makes.

        Args:
            copies: what is to be copied.
            watched: the tensors that it is copied from, which must not change meanwhile.
            wrong: asked when everything is copied; given the identities of storages that have changed,
                returns the keys of these, and of those whose copy is known to be wrong.
        """
        self._copies = copies
        # By the number of a copy and where in it: how many bytes, and their CRC32.
        self._sums: dict[tuple[int, int], tuple[int, int]] = {}
        self._is_awaited = False
        self._wrong = wrong
        self._tasks = deque(split(copies))
        self._under_way = 0
        self._changed = threading.Condition()
        self._caller = threading.current_thread()
        self._watched = watched
        self._moved: tuple[str, ...] | None = None

    def work(self) -> None:
        """Makes the copies that no other thread has begun; on return others may still be under way."""
        while True:
            task: Task = ()
            under_way = 0
            try:
                with self._changed:
                    if not self._tasks:
                        return
                    self._under_way += 1
                    under_way = 1
                    task = self._tasks[0]
                    self._tasks.popleft()
                # Nothing is summed any more once the training waits for the copies.
                self._is_awaited |= threading.current_thread() is self._caller
                make(self._copies, task, None if self._is_awaited else self._sums)
                task = ()
            finally:
                with self._changed:
                    if task:  # interrupted, Ctrl-C: the next call of `work` does it
                        self._tasks.append(task)
                    self._under_way -= under_way
                    self._changed.notify_all()

    def complete(self) -> None:
        """Returns when all copies are made, whichever thread makes them."""
        is_complete = False
        while not is_complete:
            self.work()
            with self._changed:
                self._changed.wait_for(lambda: not self._under_way)
                is_complete = not self._tasks

    def sums(self) -> dict[int, list[int]]:
        """The CRC32 of each block of each copy that was summed as a whole, by its number."""
        found: dict[int, list[int]] = {}
        summed = dict.fromkeys(range(len(self._copies.sizes)), 0)
        for (number, start), (size_bytes, crc32) in sorted(self._sums.items()):
            if summed[number] != start:
                continue
            blocks = found.setdefault(number, [])
            if start % BLOCK_BYTES:
                blocks[-1] = isal_zlib.crc32_combine(blocks[-1], crc32, size_bytes)
            else:
                blocks.append(crc32)
            summed[number] += size_bytes
        return {
            number: blocks for number, blocks in found.items() if summed[number] == self._copies.sizes[number]
        }

    def settle(self) -> tuple[str, ...]:
        """Finishes the copies, and decides whether they are valid; the first call decides.

        Returns:
            the keys of the storages whose tensors have changed since they are watched. Their copies may hold
            a mixture of old and new values.
        """
        self.complete()
        with self._changed:
            if self._moved is None:
                self._moved = tuple(dict.fromkeys(self._wrong(self._watched.moved())))
                self._watched = Watched()
                self._changed.notify_all()
            return self._moved

    def wait_for_caller(self) -> None:
        """Waits, on another thread, until the caller's thread has called `settle`.

        Autograd counts a change when it is complete, so that only the caller's own thread knows that none is
        under way. This does not wait for ever for a thread that has ended, or neither steps nor waits.
        """
        deadline = time.monotonic() + _PATIENCE_S
        with self._changed:
            while self._watched.tensors and self._caller.is_alive() and time.monotonic() < deadline:
                self._changed.wait(_LOOK_AGAIN_S)


def make(copies: Copies, task: Task, sums: dict[tuple[int, int], tuple[int, int]] | None = None) -> None:
    """Makes the copies of a task, and sums each block of them while it is in the processor's cache.

    Args:
        copies: of which the task is.
        task: which of them.
        sums: gets the sums; None: there are none.
    """
    targets, sources, _ = copies
    for number, first, size_bytes in task:
        done, end = first, first + size_bytes
        while done < end:
            size = min(BLOCK_BYTES - done % BLOCK_BYTES, end - done)
            # It lets go of the interpreter's lock.
            ctypes.memmove(targets[number] + done, sources[number] + done, size)
            if sums is not None:
                sums[number, done] = size, isal_zlib.crc32(memory(targets[number] + done, size))
            done += size


def split(copies: Copies) -> tuple[Task, ...]:
    """Splits copies into tasks."""
    return _split(tuple(copies.sizes), _TASK_BYTES)


@functools.lru_cache(maxsize=4)  # a loop saves states of the same sizes again and again
def _split(sizes: tuple[int, ...], most_bytes: int) -> tuple[Task, ...]:
    """Splits copies of some sizes into tasks of equal size, except for the last."""
    made: list[Task] = []
    task: list[tuple[int, int, int]] = []
    room = most_bytes
    for number, size_bytes in enumerate(sizes):
        done = 0
        while done < size_bytes:
            size = min(room, size_bytes - done)
            task.append((number, done, size))
            done += size
            room -= size
            if not room:
                made.append(tuple(task))
                task, room = [], most_bytes
    return (*made, tuple(task)) if task else tuple(made)
