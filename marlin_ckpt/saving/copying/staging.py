"""Copies a state, so that training may go on while the copy is written.

The copy is an image of the file: each storage is copied to the offset at which the file will hold it. The
image's memory is kept from save to save, since fresh memory costs several times what a copy into it does.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from marlin_ckpt.errors import StorageError
from marlin_ckpt.operations.memory import available_bytes
from marlin_ckpt.saving.copying import device

_TASK_BYTES = 4 << 20  # copied between two looks at what is left
_PATIENCE_S = 5.0  # how long to wait for a caller who neither steps nor waits: an evaluation may last an hour
_LOOK_AGAIN_S = 0.05  # between two checks whether the caller's thread still runs
_MADV_WIPEONFORK = 18  # madvise(2), Linux 4.14; the module mmap does not name it


class Copy(NamedTuple):
    """Bytes to be copied.

    Attributes:
        target: the address they go to.
        source: the address where they are.
        size_bytes: how many.
    """

    target: int
    source: int
    size_bytes: int


class Watched(NamedTuple):
    """A tensor that must not change until it is copied.

    Attributes:
        key: of its storage, `0` for the record `data/0`.
        tensor: the tensor, which autograd counts the changes of.
        version: the count when the save was asked for.
    """

    key: str
    tensor: torch.Tensor
    version: int


class Arena:
    """Memory that is reused from save to save, and replaced when a state needs more."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._pinned: weakref.finalize[..., Arena] | None = None
        self._process = os.getpid()
        self.size_bytes = 0

    def room(self, size_bytes: int, *, is_pinned: bool = False) -> memoryview:
        """Gives memory that begins at a page boundary; what it held before is lost.

        Args:
            size_bytes: how much, at least.
            is_pinned: pin it, where the system can, for copies from a device.

        Raises:
            StorageError: ENOMEM, there is less memory than that.
        """
        is_inherited = self._process != os.getpid()  # without its content: see below
        if self._memory is None or size_bytes > self.size_bytes or is_inherited:
            self.free()
            self._process = os.getpid()
            available = available_bytes()
            if available is not None and size_bytes > available:
                raise _no_memory(size_bytes, f"{available:,} bytes are available")
            try:
                self._memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except (OSError, OverflowError, MemoryError) as error:
                raise _no_memory(size_bytes, str(error)) from error
            with contextlib.suppress(OSError, AttributeError):
                # After a fork the first write to each page would copy it, or cost a fault at least: with the
                # workers of a data loader each copy would take three times as long. They see zeros instead.
                # Without the memory (MADV_DONTFORK) the kernel might map something else of theirs at its
                # address, which would be unmapped with this object.
                self._memory.madvise(_MADV_WIPEONFORK)
            self.size_bytes = size_bytes
        if is_pinned and self._pinned is None:
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
            if device.pin(address, self.size_bytes):
                self._pinned = weakref.finalize(self, device.unpin, address)
                self._pinned.atexit = False  # the process's end does it
        return memoryview(self._memory)

    def free(self) -> None:
        """Gives the memory back; it is freed when the last view of it is."""
        if self._pinned is not None:
            unpin = self._pinned if self._process == os.getpid() else self._pinned.detach
            unpin()
            self._pinned = None
        self._memory, self.size_bytes = None, 0


def _no_memory(size_bytes: int, reason: str) -> StorageError:
    what = f"no memory for a copy of the state, {size_bytes:,} bytes: {reason}"
    return StorageError(
        what,
        "",
        "a save that is not asynchronous needs none: async_save: false, or asynchronous=False",
        errno=errno.ENOMEM,
    )


class Copying:
    """Copies that any number of threads make together."""

    def __init__(
        self,
        copies: Iterable[Copy],
        watched: Iterable[Watched] = (),
        differ: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Takes the copies, which `work` makes.

        Args:
            copies: what is to be copied.
            watched: the tensors that it is copied from, which must not change meanwhile.
            differ: returns, when everything is copied, the keys of storages whose copy is known to be wrong.
        """
        self._differ = differ
        self._tasks = deque(tasks(copies))
        self._under_way = 0
        self._changed = threading.Condition()
        self._caller = threading.current_thread()
        self._watched = list(watched)
        self._moved: tuple[str, ...] | None = None

    def work(self) -> None:
        """Makes the copies that no other thread has begun; on return others may still be under way."""
        while True:
            task: list[Copy] = []
            under_way = 0
            try:
                with self._changed:
                    if not self._tasks:
                        return
                    self._under_way += 1
                    under_way = 1
                    task = self._tasks[0]
                    self._tasks.popleft()
                make(task)
                task = []
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

    def settle(self) -> tuple[str, ...]:
        """Finishes the copies, and decides whether they are valid; the first call decides.

        Returns:
            the keys of the storages whose tensors have changed since they are watched. Their copies may hold
            a mixture of old and new values.
        """
        self.complete()
        with self._changed:
            if self._moved is None:
                moved = [key for key, tensor, version in self._watched if tensor._version != version]  # noqa: SLF001
                self._moved = tuple(dict.fromkeys([*moved, *self._differ()]))
                self._watched.clear()
                self._changed.notify_all()
            return self._moved

    def wait_for_caller(self) -> None:
        """Waits, on another thread, until the caller's thread has called `settle`.

        Autograd counts a change when it is complete, so that only the caller's own thread knows that none is
        under way. This does not wait for ever for a thread that has ended, or neither steps nor waits.
        """
        deadline = time.monotonic() + _PATIENCE_S
        with self._changed:
            while self._watched and self._caller.is_alive() and time.monotonic() < deadline:
                self._changed.wait(_LOOK_AGAIN_S)


def make(task: Iterable[Copy]) -> None:
    """Makes the copies of a task."""
    for target, source, size_bytes in task:
        ctypes.memmove(target, source, size_bytes)  # lets go of the interpreter's lock


def tasks(copies: Iterable[Copy]) -> Iterable[list[Copy]]:
    """Splits the copies into tasks of equal size, except for the last."""
    task: list[Copy] = []
    room = _TASK_BYTES
    for target, source, size_bytes in copies:
        done = 0
        while done < size_bytes:
            size = min(room, size_bytes - done)
            task.append(Copy(target + done, source + done, size))
            done += size
            room -= size
            if not room:
                yield task
                task, room = [], _TASK_BYTES
    if task:
        yield task
