"""Fills a file past the page cache, with O_DIRECT: the disk's own speed, and no memory but a few buffers.

The caller copies into one buffer while two threads write others: with two writes under way the disk does not
wait for the next one, and is faster than with one. The copy is made by memmove(3) through
ctypes, which lets go of the interpreter's lock; a slice assignment would hold it, and the thread would wait
for it up to the switch interval of 5 ms after each write.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import queue
import threading

_BLOCK_BYTES = 4096  # the greatest logical block of a disk in use
# Larger and more buffers, and more threads, were no faster on ext4.
_BUFFER_BYTES = 4 << 20
_BUFFERS = 4
_THREADS = 2
# How a file system says that it has no O_DIRECT, or sets no space aside.
REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)
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
        _set_direct(fd, on=True)
        try:
            # Without it each write also allocates, which takes half as long again (measured on ext4).
            os.posix_fallocate(fd, 0, _rounded(expected_bytes))
        except OSError as error:
            if error.errno in REFUSALS:  # the file will be filled in another way; else it is thrown away
                _set_direct(fd, on=False)
                os.ftruncate(fd, 0)
            raise
        self._length = self._filled = self._handed_over = 0
        self._errors: list[BaseException] = []
        self._empty: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[mmap.mmap, int, int] | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._empty.put(mmap.mmap(-1, _BUFFER_BYTES))
        self._buffer = self._empty.get()
        self._threads: list[threading.Thread] = []
        try:
            for number in range(_THREADS):
                thread = threading.Thread(target=self._write, name=f"marlin-ckpt writer {number}")
                thread.start()
                self._threads.append(thread)
        except RuntimeError as error:
            self.stop()
            raise OSError(errno.EAGAIN, "cannot start a thread that writes") from error

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
                self._hand_over(_BUFFER_BYTES)

    def finish(self) -> None:
        """Writes the rest, padded to a block, and cuts the file to its length."""
        if self._filled:
            size = _rounded(self._filled)
            self._buffer[self._filled : size] = bytes(size - self._filled)
            self._hand_over(size)
        self.stop()
        if self._errors:
            raise self._errors[0]
        _set_direct(self._fd, on=False)
        os.ftruncate(self._fd, self._length)

    def stop(self) -> None:
        """Ends the threads."""
        for _ in self._threads:
            self._full.put(None)
        while self._threads:
            self._threads.pop().join()

    def _hand_over(self, size: int) -> None:
        self._full.put((self._buffer, size, self._handed_over))
        self._handed_over += size
        self._buffer = self._empty.get()
        self._filled = 0
        if self._errors:
            raise self._errors[0]

    def _write(self) -> None:
        while (item := self._full.get()) is not None:
            buffer, size, offset = item
            if not self._errors:
                try:
                    self._write_at(memoryview(buffer)[:size], offset)
                except BaseException as error:  # noqa: BLE001 - raised where the caller can see it
                    self._errors.append(error)
            self._empty.put(buffer)

    def _write_at(self, rest: memoryview, offset: int) -> None:
        is_direct = True
        while rest:
            try:
                written = os.pwrite(self._fd, rest, offset)
            except OSError as error:
                # Some file systems refuse only now, or after a short write has left a crooked offset.
                if error.errno != errno.EINVAL or not is_direct:
                    raise
                _set_direct(self._fd, on=False)
                is_direct = False
                continue
            rest = rest[written:]
            offset += written


def _rounded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _set_direct(fd: int, *, on: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
    if wanted != flags:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)


def _copy(source: memoryview, buffer: mmap.mmap, at: int) -> None:
    if source.readonly or len(source) < _WORTH_A_CALL_BYTES:
        buffer[at : at + len(source)] = source
        return
    start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    ctypes.memmove(start + at, ctypes.addressof(ctypes.c_char.from_buffer(source)), len(source))
