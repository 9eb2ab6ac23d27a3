"""Fills a file past the page cache, with O_DIRECT: the disk's own speed, and no memory but a few buffers.

The caller copies into one buffer while a thread writes another. The copy is made by memmove(3) through
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
_BUFFER_BYTES = 8 << 20
_BUFFERS = 3
# How a file system says that it has no O_DIRECT, or sets no space aside.
REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)
_WORTH_A_CALL_BYTES = 16 << 10


class DirectSink:
    """Three buffers of 8 MiB in turn, aligned to pages, and the thread that writes them."""

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
        self._length = self._filled = 0
        self._error: BaseException | None = None
        self._empty: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[mmap.mmap, int] | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._empty.put(mmap.mmap(-1, _BUFFER_BYTES))
        self._buffer = self._empty.get()
        self._thread = threading.Thread(target=self._write, name="marlin-ckpt writer")
        self._thread.start()

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
        if self._error is not None:
            raise self._error
        _set_direct(self._fd, on=False)
        os.ftruncate(self._fd, self._length)

    def stop(self) -> None:
        """Ends the thread."""
        if self._thread.is_alive():
            self._full.put(None)
            self._thread.join()

    def _hand_over(self, size: int) -> None:
        self._full.put((self._buffer, size))
        self._buffer = self._empty.get()
        self._filled = 0
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        offset = 0
        while (item := self._full.get()) is not None:
            buffer, size = item
            if self._error is None:
                try:
                    self._write_at(memoryview(buffer)[:size], offset)
                except BaseException as error:  # noqa: BLE001 - raised where the caller can see it
                    self._error = error
            offset += size
            self._empty.put(buffer)

    def _write_at(self, rest: memoryview, offset: int) -> None:
        while rest:
            try:
                written = os.pwrite(self._fd, rest, offset)
            except OSError as error:
                # Some file systems refuse only now, or after a short write has left a crooked offset.
                if error.errno != errno.EINVAL or not _set_direct(self._fd, on=False):
                    raise
                continue
            rest = rest[written:]
            offset += written


def _rounded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _set_direct(fd: int, *, on: bool) -> bool:
    """Switches O_DIRECT on or off; returns whether that changed anything."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
    if wanted == flags:
        return False
    fcntl.fcntl(fd, fcntl.F_SETFL, wanted)
    return True


def _copy(source: memoryview, buffer: mmap.mmap, at: int) -> None:
    if source.readonly or len(source) < _WORTH_A_CALL_BYTES:
        buffer[at : at + len(source)] = source
        return
    start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    ctypes.memmove(start + at, ctypes.addressof(ctypes.c_char.from_buffer(source)), len(source))
