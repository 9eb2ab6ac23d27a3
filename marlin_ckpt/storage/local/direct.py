"""Fills a file past the page cache, with O_DIRECT: the disk's own speed, and no memory but a few buffers.

The caller copies into one buffer while two threads write others: with two writes under way the disk does not
wait for the next one, and is faster than with one. The copy is made by memmove(3) through ctypes, which lets
go of the interpreter's lock; a slice assignment would hold it, and the threads would wait for it up to the
switch interval of 5 ms after each write.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import queue

from marlin_ckpt.storage.local import writers

# Larger and more buffers, and more threads, were no faster on ext4.
_BUFFER_BYTES = 4 << 20
_BUFFERS = 4
_THREADS = 2
_WORTH_A_CALL_BYTES = 16 << 10


class DirectSink:
    """Four buffers of 4 MiB in turn, aligned to pages, and the threads that write them."""

    def __init__(self, fd: int, expected_bytes: int) -> None:
        """Sets the space aside and switches the page cache off.

        Args:
            fd: an empty file, open for writing.
            expected_bytes: how long it will be, roughly.

        Raises:
            OSError: ENOSPC when the disk has no room; EINVAL or EOPNOTSUPP where the file system has no
                O_DIRECT, the file being still empty.
        """
        self._fd = fd
        writers.make_direct(fd, expected_bytes)
        self._length = self._filled = self._handed_over = 0
        self._empty: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._empty.put(memoryview(mmap.mmap(-1, _BUFFER_BYTES)))
        self._buffer = self._empty.get()
        self._writers = writers.Writers(fd, _THREADS, lambda piece, _: self._empty.put(piece))

    def put(self, data: bytes | memoryview) -> None:
        """Appends bytes; they may be changed once this returns."""
        view = memoryview(data)
        self._length += len(view)
        while view:
            size = min(len(view), _BUFFER_BYTES - self._filled)
            _copy(view[:size], self._buffer, self._filled)
            self._filled += size
            view = view[size:]
            if self._filled == _BUFFER_BYTES:
                self._hand_over()

    def finish(self) -> None:
        """Writes the rest, padded to a block, and cuts the file to its length."""
        if self._filled:
            size = writers.rounded(self._filled)
            self._buffer[self._filled : size] = bytes(size - self._filled)
            self._writers.write(self._buffer[:size], self._handed_over)
        self.stop()
        self._writers.check()
        writers.set_direct(self._fd, on=False)
        os.ftruncate(self._fd, self._length)

    def stop(self) -> None:
        """Ends the threads."""
        self._writers.stop()

    def _hand_over(self) -> None:
        self._writers.write(self._buffer, self._handed_over)
        self._handed_over += _BUFFER_BYTES
        self._filled = 0
        self._buffer = self._empty.get()
        self._writers.check()


def _copy(source: memoryview, buffer: memoryview, at: int) -> None:
    if source.readonly or len(source) < _WORTH_A_CALL_BYTES:
        buffer[at : at + len(source)] = source
        return
    start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    ctypes.memmove(start + at, ctypes.addressof(ctypes.c_char.from_buffer(source)), len(source))
