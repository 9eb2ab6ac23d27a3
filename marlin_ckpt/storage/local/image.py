"""Fills a file from an image of it in memory, where most of its bytes lie at their place already."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

from marlin_ckpt.storage.local import writers

_PIECE_BYTES = 4 << 20
_CACHED_PIECE_BYTES = 1 << 20  # calls of 64 MiB are several times slower through the page cache


class ImageSink:
    """Writes from the image itself, past the page cache where that is possible: nothing is copied again."""

    def __init__(self, fd: int, image: memoryview, expected_bytes: int) -> None:
        """Chooses the way and starts the threads that write.

        Args:
            fd: an empty file, open for writing.
            image: writable memory that begins at a page's border and has room for the whole file and a block.
            expected_bytes: how long the file will be, roughly.

        Raises:
            OSError: ENOSPC when the disk has no room.
        """
        self._fd = fd
        self._image = image
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(image))
        self._length = self._handed_over = 0
        self._piece_bytes = _PIECE_BYTES
        self._is_direct = True
        try:
            writers.make_direct(fd, expected_bytes)
        except OSError as error:
            if error.errno not in writers.REFUSALS:
                raise
            self._is_direct = False
            self._piece_bytes = _CACHED_PIECE_BYTES
        self._writers = writers.Writers(fd, 2 if self._is_direct else 1, self._on_written)

    def put(self, data: bytes | memoryview) -> None:
        """Appends bytes, which are copied to their place in the image unless they lie there."""
        view = memoryview(data)
        end = self._length + len(view)
        # Only writable memory has an address to ask for, and the image is that.
        if view.readonly or _address(view) != self._start + self._length:
            self._image[self._length : end] = view
        self._length = end
        while end - self._handed_over >= self._piece_bytes:
            self._hand_over(self._piece_bytes)

    def finish(self) -> None:
        """Writes the rest, padded to a block, and cuts the file to its length."""
        if rest := self._length - self._handed_over:
            size = writers.rounded(rest)
            self._image[self._length : self._handed_over + size] = bytes(size - rest)
            self._hand_over(size)
        self.stop()
        self._writers.check()
        if self._is_direct:
            writers.set_direct(self._fd, on=False)
        os.ftruncate(self._fd, self._length)

    def stop(self) -> None:
        """Ends the threads."""
        self._writers.stop()

    def _on_written(self, piece: memoryview, offset: int) -> None:
        if not self._is_direct:
            writers.start_writeback(self._fd, offset, len(piece))

    def _hand_over(self, size: int) -> None:
        piece = self._image[self._handed_over : self._handed_over + size]
        self._writers.write(piece, self._handed_over)
        self._handed_over += size


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) if len(view) else 0


@contextlib.contextmanager
def open_image(fd: int, image: memoryview, expected_bytes: int) -> Iterator[ImageSink]:
    """Fills an empty file from an image of it; finishes it when the context ends without an error.

    Args:
        fd: the file, open for writing.
        image: see `ImageSink`.
        expected_bytes: how long the file will be, roughly.
    """
    sink = ImageSink(fd, image, expected_bytes)
    try:
        yield sink
        sink.finish()
    finally:
        sink.stop()
