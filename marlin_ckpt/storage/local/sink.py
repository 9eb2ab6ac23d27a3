"""Ways to fill a file from front to back: through the page cache, or past it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Protocol

from marlin_ckpt.storage.local.direct import DirectSink
from marlin_ckpt.storage.local.publishing import write_all
from marlin_ckpt.storage.local.writers import REFUSALS, start_writeback

# Below this the page cache takes the bytes faster than a disk's round trips; measured on ext4.
_DIRECT_FROM_BYTES = 64 << 20
# Calls of 1 MiB write to the page cache several times faster than calls of 64 MiB, which make the kernel take
# 2 MiB folios.
PIECE_BYTES = 1 << 20
_IN_MEMORY = {"tmpfs", "ramfs"}


class Sink(Protocol):
    """Takes the bytes of a file in their order."""

    def put(self, data: bytes | memoryview) -> None:
        """Appends bytes, at most `PIECE_BYTES` a call; they may be changed once this returns.

        Raises:
            OSError: an earlier or this piece cannot be written.
        """

    def finish(self) -> None:
        """Hands everything to the system; what remains is an fsync.

        Raises:
            OSError: something cannot be written.
        """


class BufferedSink:
    """Writes through the page cache, small pieces gathered; the disk begins while more is prepared."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending = bytearray()
        self._written = 0

    def put(self, data: bytes | memoryview) -> None:
        """Appends bytes."""
        # A state of many small tensors would else cost three calls for each.
        if len(self._pending) + len(data) > PIECE_BYTES:
            self.finish()
        if len(data) < PIECE_BYTES:
            self._pending += data
        else:
            self._write(data)

    def finish(self) -> None:
        """Writes what was gathered."""
        self._write(self._pending)
        self._pending = bytearray()

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        write_all(self._fd, data)
        start_writeback(self._fd, self._written, len(data))
        self._written += len(data)


@contextlib.contextmanager
def open_sink(fd: int, expected_bytes: int) -> Iterator[Sink]:
    """Chooses how to fill an empty file, and finishes it when the context ends without an error.

    Args:
        fd: the file, open for writing.
        expected_bytes: how long it will be, roughly.
    """
    if expected_bytes < _DIRECT_FROM_BYTES or _is_in_memory(fd):
        buffered = BufferedSink(fd)
        yield buffered
        buffered.finish()
        return
    try:
        direct = DirectSink(fd, expected_bytes)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        buffered = BufferedSink(fd)
        yield buffered
        buffered.finish()
        return
    try:
        yield direct
        direct.finish()
    finally:
        direct.stop()


def _is_in_memory(fd: int) -> bool:
    """Whether there is no disk below; newer kernels accept O_DIRECT on tmpfs and make a detour of it."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with (
        contextlib.suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts,
    ):
        for line in mounts:
            head, _, tail = line.partition(" - ")  # proc_pid_mountinfo(5)
            if head.split()[2] == wanted:
                return tail.split()[0] in _IN_MEMORY
    return False
